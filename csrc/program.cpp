#include "program.h"

#include <cstdlib>
#include <new>
#include <set>
#include <string>

#include "isa.h"
#include "tiles.h"

namespace fastsolve {
namespace {

void check_threads(int threads) {
  if (threads < 1) refuse("threads is " + std::to_string(threads) + ": at least 1 is needed");
}

// Elements from which a new float32 tensor is written past the caches. EPYC Zen 4, 2026-11, one thread, 4 sources, with the
// time of reading the result back: 0.25 M 68 at once, 77 us streamed; 1 M 385, 385; 2 M 1257, 1053; 4 M 3148, 2488.
constexpr std::int64_t kStreamed = 1 << 20;

// Scratch of a thread, kept for its next run.
class Workspace {
 public:
  static const Scratch& of_this_thread(std::size_t tiles, std::size_t views) {
    static thread_local Workspace workspace;
    workspace.reserve(tiles, views);
    return workspace.scratch_;
  }

  ~Workspace() { std::free(scratch_.tiles); }

 private:
  void reserve(std::size_t tiles, std::size_t views) {
    if (tiles > tiles_) {
      std::free(scratch_.tiles);
      tiles_ = 0;
      scratch_.tiles = static_cast<float*>(std::aligned_alloc(64, tiles * kTile * sizeof(float)));
      if (!scratch_.tiles) throw std::bad_alloc();
      tiles_ = tiles;
    }
    if (views > views_.size()) views_.resize(views);
    scratch_.views = views_.data();
  }

  Scratch scratch_{nullptr, nullptr};
  std::size_t tiles_ = 0;
  std::vector<const float*> views_;
};

}  // namespace

Program::Program(const std::vector<int>& dtypes, const float* table, const std::vector<UpdateText>& updates,
                 std::int64_t batch, std::int64_t size, int threads, const MidTexts& mids, std::int64_t stride)
    : slots_(dtypes), batch_(batch), size_(size), stride_(stride), threads_(threads) {
  check_extent(batch, size);
  check_stride(stride);
  check_threads(threads);
  if (!table && !updates.empty()) refuse("the coefficient table is a null pointer");
  for (std::size_t i = 0; i < updates.size(); ++i) {
    const std::vector<MidText> own = mids_of(mids, updates, i);
    check_update(updates[i], own.size(), i, slots_.size());
    plans_.push_back(make_plan(updates[i], own, table));
  }
}

Program::Plan Program::make_plan(const UpdateText& text, const std::vector<MidText>& mids, const float* table) const {
  const auto& [sources, draws, rows] = text;
  Plan plan;
  for (const int slot : sources) plan.bound_sources.push_back({nullptr, slots_.dtype(slot)});
  plan.source_slots = sources;
  for (const auto& [stream, draw] : draws) plan.draws.push_back({stream, draw});
  for (const auto& [op, terms, offset, mask, known] : mids) {
    plan.mid_terms.push_back(terms);
    const Row sum = {nullptr, DType::float32, static_cast<int>(terms.size()), nullptr, table + offset, Store::at_once};
    plan.bound_mids.push_back({sum, op == "blend", mask, known});
  }
  for (const auto& [out, terms, offset] : rows) {
    plan.rows.push_back({out, terms, {}});
    plan.bound_rows.push_back(
        {nullptr, slots_.dtype(out), static_cast<int>(terms.size()), nullptr, table + offset, Store::at_once});
  }

  // Sources of two bytes are converted when a tile begins, so only float32 ones are read later.
  std::set<int> later;
  for (std::size_t i = rows.size(); i-- > 0;) {
    plan.rows[i].later_reads.assign(later.begin(), later.end());
    for (const int term : plan.rows[i].terms)
      if (term < static_cast<int>(sources.size()) && plan.bound_sources[term].dtype == DType::float32)
        later.insert(sources[term]);
  }
  plan.tiles = draws.size() + mids.size() + rows.size();
  for (const Source& source : plan.bound_sources) plan.tiles += source.dtype != DType::float32;
  plan.large = batch_ * size_ * (1 + kNormalWeight * static_cast<std::int64_t>(draws.size())) >= kLarge;
  return plan;
}

Update Program::bind(Plan& plan) const {
  for (std::size_t i = 0; i < plan.source_slots.size(); ++i)
    plan.bound_sources[i].data = slots_.pointer(plan.source_slots[i]);
  for (std::size_t i = 0; i < plan.mid_terms.size(); ++i) plan.bound_mids[i].sum.terms = plan.mid_terms[i].data();
  for (std::size_t i = 0; i < plan.rows.size(); ++i) {
    const RowPlan& row = plan.rows[i];
    Row& bound = plan.bound_rows[i];
    bound.out = slots_.pointer(row.slot);
    bound.terms = row.terms.data();
    bound.store = bound.dtype == DType::float32 && batch_ * size_ >= kStreamed ? Store::streamed : Store::at_once;
    for (const int slot : plan.source_slots)
      if (slots_.are_one(row.slot, slot)) bound.store = Store::at_once;
    for (const int slot : row.later_reads)
      if (slots_.pointer(slot) == bound.out) bound.store = Store::held;
  }
  if (!plan.draws.empty() && !seeds_) refuse("the update draws normals and the program has no seeds: call seeds first");
  return {plan.bound_sources.data(),
          plan.draws.data(),
          plan.bound_mids.data(),
          plan.bound_rows.data(),
          static_cast<int>(plan.bound_sources.size()),
          static_cast<int>(plan.draws.size()),
          static_cast<int>(plan.bound_mids.size()),
          static_cast<int>(plan.bound_rows.size()),
          stride_,
          seeds_,
          // Without draws and with one table an element does not care which sample it is in.
          plan.draws.empty() && stride_ == 0 ? batch_ * size_ : size_};
}

void Program::run(int number) {
  Plan& plan = plans_[checked(number, plans_.size(), "update")];
  const Update update = bind(plan);
  if (batch_ * size_ == 0) return;
  const std::int64_t tiles = batch_ * size_ / update.size * tiles_per_sample(update.size);
  const Kernels& chosen = kernels();
  for_tiles(tiles, plan.large ? threads_ : 1, [&](std::int64_t first, std::int64_t last) {
    const std::size_t views = plan.bound_sources.size() + plan.draws.size() + plan.bound_mids.size();
    chosen.update(update, first, last, Workspace::of_this_thread(plan.tiles, views));
  });
}

bool normals_are_large(std::int64_t batch, std::int64_t size) { return batch * size * kNormalWeight >= kLarge; }

void normals(float* out, const std::uint64_t* seeds, std::int64_t batch, std::int64_t size, Draw draw, int threads) {
  check_extent(batch, size);
  check_threads(threads);
  const std::int64_t per_sample = tiles_per_sample(size);
  const Kernels& chosen = kernels();
  for_tiles(batch * per_sample, normals_are_large(batch, size) ? threads : 1, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t tile = first; tile < last; ++tile) {
      const std::int64_t sample = tile / per_sample, start = tile % per_sample * kTile;
      const std::int64_t count = std::min(kTile, size - start);
      chosen.normals(out + sample * size + start, count, static_cast<std::uint64_t>(start) / 4, seeds[sample], draw);
    }
  });
}

}  // namespace fastsolve
