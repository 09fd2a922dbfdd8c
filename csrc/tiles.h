// Tiles of a [batch, size] tensor shared out among threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "kernels.h"
#include "pool.h"

namespace fastsolve {

// Elements below which other threads cost more than they bring, for work that does little but read and write; a normal weighs
// as much as eight. EPYC Zen 4, 2 cores, 2026-11, one thread and two: 4 sources, 256 k elements 59 and 60 us, 4 M 2254 and
// 1126; 2 sources and a normal, 64 k 57 and 53, 1 M 915 and 496.
constexpr std::int64_t kLarge = 1 << 18;
constexpr std::int64_t kNormalWeight = 8;

inline std::int64_t tiles_per_sample(std::int64_t size) { return (size + kTile - 1) / kTile; }

// Calls part(first, last) until the tiles 0 ... count - 1 are done, on this thread or on `threads`.
template <class Part>
void for_tiles(std::int64_t count, int threads, const Part& part) {
  // Small shares, claimed as threads come free: one that is late or slow does not keep the others.
  constexpr std::int64_t kShare = 16;
  if (threads <= 1 || count <= kShare) return part(0, count);
  struct Work {
    const Part& part;
    std::int64_t count;
    std::atomic<std::int64_t> next{0};
  } work{part, count};
  const auto shares = static_cast<int>(std::min<std::int64_t>(threads, (count + kShare - 1) / kShare));
  // noexcept: others still work on this frame. Only a thread that gets no memory for its scratch could throw.
  const auto take = [](void* context) noexcept {
    auto& work = *static_cast<Work*>(context);
    for (std::int64_t first; (first = work.next.fetch_add(kShare, std::memory_order_relaxed)) < work.count;)
      work.part(first, std::min(first + kShare, work.count));
  };
  Pool::instance().run(shares, take, &work);
}

}  // namespace fastsolve
