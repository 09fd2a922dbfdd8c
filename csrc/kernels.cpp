// Compiled once per instruction set, with FASTSOLVE_ISA naming its namespace and FASTSOLVE_AVX2 or FASTSOLVE_AVX512 its lanes.
// Nothing here may call an inline function of another header than these: see kernels.h.
#include "kernels.h"

#include <cstring>

#include "mids.h"
#include "normals.h"
#include "rows.h"

namespace fastsolve {
namespace {

std::int64_t width(DType dtype) { return dtype == DType::float32 ? 4 : 2; }

void update_tile(const Update& update, std::int64_t sample, std::int64_t start, const Scratch& scratch) {
  const std::int64_t rest = update.size - start, count = rest < kTile ? rest : kTile;
  const std::int64_t offset = sample * update.size + start;
  float* tile = scratch.tiles;
  const float** view = scratch.views;
  for (int i = 0; i < update.source_count; ++i) {
    const Source& source = update.sources[i];
    const char* data = static_cast<const char*>(source.data) + offset * width(source.dtype);
    if (source.dtype == DType::float32) {
      *view++ = reinterpret_cast<const float*>(data);
      continue;
    }
    source.dtype == DType::bfloat16 ? widen<Bfloat16>(tile, data, count) : widen<Float16>(tile, data, count);
    *view++ = tile;
    tile += kTile;
  }
  for (int i = 0; i < update.draw_count; ++i, tile += kTile) {
    fill_normals(tile, count, static_cast<std::uint64_t>(start) / 4, update.seeds[sample], update.draws[i]);
    *view++ = tile;
  }
  const std::int64_t ahead = sample * update.stride;
  for (int i = 0; i < update.mid_count; ++i, tile += kTile) {
    compute_mid(tile, count, update.mids[i], ahead, scratch.views);
    *view++ = tile;
  }
  float* const first_held = tile;
  for (int i = 0; i < update.row_count; ++i) {
    Row row = update.rows[i];
    row.coefficients += ahead;
    const bool held = row.store == Store::held;
    void* out = held ? static_cast<void*>(tile) : static_cast<char*>(row.out) + offset * width(row.dtype);
    compute_row(out, count, row, scratch.views);
    if (held) tile += kTile;
  }
  const float* held = first_held;
  for (int i = 0; i < update.row_count; ++i) {
    if (update.rows[i].store != Store::held) continue;
    std::memcpy(static_cast<float*>(update.rows[i].out) + offset, held, count * sizeof(float));
    held += kTile;
  }
}

void update(const Update& update, std::int64_t first, std::int64_t last, const Scratch& scratch) {
  const std::int64_t per_sample = (update.size + kTile - 1) / kTile;
  std::int64_t sample = first / per_sample, part = first % per_sample;
  for (std::int64_t tile = first; tile < last; ++tile) {
    update_tile(update, sample, part * kTile, scratch);
    if (++part == per_sample) part = 0, ++sample;
  }
  finish_streams();
}

void normals(float* out, std::int64_t count, std::uint64_t group, std::uint64_t seed, Draw draw) {
  fill_normals(out, count, group, seed, draw);
}

}  // namespace

namespace FASTSOLVE_ISA {
extern const Kernels kernels = {normals, update};
}

}  // namespace fastsolve
