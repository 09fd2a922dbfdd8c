// The fused update: every row of one step of a sampler in one launch.
//
//     out[r] = round(c[r,0] * v[r,0] + c[r,1] * v[r,1] + ...)      v a source tensor or a draw, r = 0 .. rows - 1
//
// Sums run from left to right, each product and each sum rounded to float32, and the result to the type of out[r], to nearest
// even. A thread has read its elements of all sources before it writes one, so an out may be a source. A draw is computed once
// for all rows and costs no memory. Tensors are [batch, size], contiguous.
//
// Bytes per element: sum of sizeof(source) + sum of sizeof(out). Coefficients, draws and seeds are a few words from L2.
#pragma once

#include "elements.cuh"
#include "normals.cuh"
#include "tile.h"
#include "update.h"

namespace fastsolve::cuda {

// The groups of four elements of one thread: `first` and every kThreads on. `whole`: all are there and may be vectors.
//
// kMixed: some tensors have 16 bits. kFull: there are exactly so many sources and draws, and every row sums all of them, with
// coefficients that lie together. Otherwise rows leave out positions, and the last sources and the first draws may be absent.
template <int kSources, int kDraws, bool kMixed, bool kFull>
class Thread {
 public:
  __device__ Thread(const Update& update, std::uint32_t first, bool whole) : u(update), first_(first), whole_(whole) {}

  // The coefficients of a full row are asked for before anything waits for the sources, and read where a row begins: asked for
  // one row ahead they cost 20 instructions more. Those of other rows come by fours, which is what registers hold beside 8 + 3.
  __device__ void run() {
    read();
    int r = 0;
#pragma unroll 1
    do {
      const Row& row = u.rows[r];
      float c[kPart];
      if (kFull) coefficients(c, row, 0);
      if (r == 0) {
        if (kDraws > 0) draw();
        if (kMixed) widen();
      }
      Four total[kCount];
      if (!kFull) clear(total);
#pragma unroll
      for (int p = 0; p < kTerms; p += kPart) {
        if (!kFull) coefficients(c, row, p);
        add_terms(total, c, row, p);
      }
      write(total, row);
    } while (++r < u.row_count);
  }

 private:
  static constexpr int kTerms = kSources + kDraws, kPart = kFull ? kTerms : 4, kCount = kGroups<kSources, kDraws>;

  __device__ bool has_source(int p) const { return kFull || p < u.source_count; }
  __device__ bool is_single(int p) const { return !kMixed || u.dtypes[p] == DType::float32; }

  struct Place {
    std::uint32_t sample, group;  // of the sample
  };

  __device__ Place place(std::uint32_t group) const {
    const std::uint32_t sample = kDraws == 0 ? 0 : (__umulhi(group, u.multiplier) + group) >> u.shift;
    return {sample, group - sample * u.per_sample};
  }

  struct Span {
    std::int64_t element;
    int count;
  };

  // Of a group that is read and written element by element. Worked out anew each time: kept, it would cost registers.
  __device__ Span span(int g) const {
    std::uint32_t group = first_ + g * kThreads;
    asm volatile("" : "+r"(group));
    const Place at = place(group);
    const std::int64_t start = 4 * static_cast<std::int64_t>(at.group), rest = u.size - start;
    return {at.sample * u.size + start, group >= u.groups ? 0 : rest < 4 ? static_cast<int>(rest) : 4};
  }

  __device__ void read() {
    if (whole_) {
#pragma unroll
      for (int p = 0; p < kSources; ++p)
        if (has_source(p))
#pragma unroll
          for (int g = 0; g < kCount; ++g) read_whole(v_[p][g], u.sources[p], first_, g * kThreads, is_single(p));
    } else {
#pragma unroll
      for (int g = 0; g < kCount; ++g) {
        const Span at = span(g);
#pragma unroll
        for (int p = 0; p < kSources; ++p)
          if (has_source(p)) read_some(v_[p][g], u.sources[p], at.element, at.count, is_single(p));
      }
    }
  }

  __device__ void widen() {
#pragma unroll
    for (int p = 0; p < kSources; ++p)
      if (has_source(p) && !is_single(p))
#pragma unroll
        for (int g = 0; g < kCount; ++g) widen_pairs(v_[p][g], u.dtypes[p]);
  }

  // A draw goes in at the end and pushes the earlier ones forward: registers have no index at run time.
  __device__ void draw() {
#pragma unroll 1
    for (int d = 0; d < (kFull ? kDraws : u.draw_count); ++d) {
      const Draw draw = load_draw(u.draws + u.draw_at[d]);
#pragma unroll
      for (int g = 0; g < kCount; ++g) {
#pragma unroll
        for (int p = kSources; p < kTerms - 1; ++p)
#pragma unroll
          for (int j = 0; j < 4; ++j) v_[p][g][j] = v_[p + 1][g][j];
        const Place at = place(first_ + g * kThreads);
        group_normals(v_[kTerms - 1][g], __ldg(u.seeds + at.sample), at.group, draw);
      }
    }
  }

  __device__ void coefficients(float (&c)[kPart], const Row& row, int start) const {
#pragma unroll
    for (int i = 0; i < kPart; ++i) {
      const int p = start + i;
      if (p < kTerms) c[i] = kFull ? __ldg(u.table + row.at[0] + p) : row.at[p] < 0 ? 0.0f : __ldg(u.table + row.at[p]);
    }
  }

  static __device__ void clear(Four (&total)[kCount]) {
#pragma unroll
    for (int g = 0; g < kCount; ++g)
#pragma unroll
      for (int j = 0; j < 4; ++j) total[g][j] = -0.0f;  // changes no number that is added to it, 0.0f would change -0.0f
  }

  __device__ void add_terms(Four (&total)[kCount], const float (&c)[kPart], const Row& row, int start) const {
#pragma unroll
    for (int i = 0; i < kPart; ++i) {
      const int p = start + i;
      if (p >= kTerms || (!kFull && row.at[p] < 0)) continue;
#pragma unroll
      for (int g = 0; g < kCount; ++g)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const float product = mul(c[i], v_[p][g][j]);
          total[g][j] = kFull && p == 0 ? product : add(total[g][j], product);
        }
    }
  }

  __device__ void write(const Four (&total)[kCount], const Row& row) const {
    const DType dtype = kMixed ? row.dtype : DType::float32;
#pragma unroll
    for (int g = 0; g < kCount; ++g) {
      if (whole_) {
        write_whole(row.out, first_, g * kThreads, total[g], dtype);
      } else {
        const Span at = span(g);
#pragma unroll
        for (int j = 0; j < 4; ++j)
          if (j < at.count) write_one(row.out, at.element + j, total[g][j], dtype);
      }
    }
  }

  const Update& u;
  const std::uint32_t first_;
  const bool whole_;
  Four v_[kTerms][kCount];
};

template <int kSources, int kDraws, bool kMixed, bool kFull>
__global__ void __launch_bounds__(kThreads, kBlocks) update(const __grid_constant__ Update u) {
  constexpr int kCount = kGroups<kSources, kDraws>;
  const std::uint32_t first = blockIdx.x * (kThreads * kCount) + threadIdx.x;
  if (first >= u.groups) return;
  Thread<kSources, kDraws, kMixed, kFull>(u, first, first + (kCount - 1) * kThreads < u.whole).run();
}

}  // namespace fastsolve::cuda
