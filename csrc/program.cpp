#include "program.h"

#include <cstdlib>
#include <new>
#include <set>
#include <stdexcept>
#include <string>

#include "isa.h"
#include "tiles.h"

namespace fastsolve {
namespace {

[[noreturn]] void refuse(const std::string& text) { throw std::invalid_argument(text); }

std::string range(std::size_t count) {
  return count == 0 ? "there are none" : "allowed are 0 to " + std::to_string(count - 1);
}

void check_extent(std::int64_t batch, std::int64_t size, int threads) {
  if (batch < 0 || size < 0)
    refuse("batch " + std::to_string(batch) + " and size " + std::to_string(size) + " must not be negative");
  if (threads < 1) refuse("threads is " + std::to_string(threads) + ": at least 1 is needed");
}

std::int64_t width(DType dtype) { return dtype == DType::float32 ? 4 : 2; }

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

std::size_t Program::checked(int index, std::size_t count, const char* what) {
  if (index < 0 || static_cast<std::size_t>(index) >= count)
    refuse(std::string(what) + " " + std::to_string(index) + " does not exist: " + range(count));
  return static_cast<std::size_t>(index);
}

Program::Program(const std::vector<int>& dtypes, const float* table, const std::vector<UpdateText>& updates,
                 std::int64_t batch, std::int64_t size, int threads)
    : pointers_(dtypes.size()), batch_(batch), size_(size), threads_(threads) {
  check_extent(batch, size, threads);
  for (std::size_t i = 0; i < dtypes.size(); ++i) {
    if (dtypes[i] < 0 || dtypes[i] > 2)
      refuse("dtype " + std::to_string(dtypes[i]) + " of slot " + std::to_string(i) +
             " is unknown: 0 is float32, 1 bfloat16, 2 float16");
    dtypes_.push_back(static_cast<DType>(dtypes[i]));
  }
  if (!table && !updates.empty()) refuse("the coefficient table is a null pointer");
  for (std::size_t i = 0; i < updates.size(); ++i) plans_.push_back(make_plan(updates[i], i, table));
}

Program::Plan Program::make_plan(const UpdateText& text, std::size_t number, const float* table) const {
  const auto& [sources, draws, rows] = text;
  const std::string where = "update " + std::to_string(number) + ": ";
  Plan plan;
  const auto slot = [&](int index, const std::string& what) {
    if (index < 0 || static_cast<std::size_t>(index) >= dtypes_.size())
      refuse(where + what + " names slot " + std::to_string(index) + ", " + range(dtypes_.size()));
    return dtypes_[static_cast<std::size_t>(index)];
  };
  for (std::size_t i = 0; i < sources.size(); ++i)
    plan.bound_sources.push_back({nullptr, slot(sources[i], "source " + std::to_string(i))});
  plan.source_slots = sources;
  for (const auto& [stream, draw] : draws) plan.draws.push_back({stream, draw});

  const std::size_t positions = sources.size() + draws.size();
  std::set<int> outs;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto& [out, terms, offset] = rows[i];
    const std::string row = "row " + std::to_string(i);
    const DType dtype = slot(out, row);
    if (!outs.insert(out).second) refuse(where + row + " writes slot " + std::to_string(out) + ", as an earlier row does");
    if (terms.empty()) refuse(where + row + " has no terms");
    if (offset < 0) refuse(where + row + " has the negative offset " + std::to_string(offset));
    for (const int term : terms)
      if (term < 0 || static_cast<std::size_t>(term) >= positions)
        refuse(where + row + " has the term " + std::to_string(term) + ", " + range(positions));
    plan.rows.push_back({out, terms, {}});
    plan.bound_rows.push_back({nullptr, dtype, static_cast<int>(terms.size()), nullptr, table + offset, Store::at_once});
  }

  // Sources of two bytes are converted when a tile begins, so only float32 ones are read later.
  std::set<int> later;
  for (std::size_t i = rows.size(); i-- > 0;) {
    plan.rows[i].later_reads.assign(later.begin(), later.end());
    for (const int term : plan.rows[i].terms)
      if (term < static_cast<int>(sources.size()) && plan.bound_sources[term].dtype == DType::float32)
        later.insert(sources[term]);
  }
  plan.tiles = draws.size() + rows.size();
  for (const Source& source : plan.bound_sources) plan.tiles += source.dtype != DType::float32;
  plan.large = batch_ * size_ * (1 + kNormalWeight * static_cast<std::int64_t>(draws.size())) >= kLarge;
  return plan;
}

void* Program::pointer(int slot) const {
  if (!pointers_[slot]) refuse("slot " + std::to_string(slot) + " has no pointer: call set first");
  return pointers_[slot];
}

Update Program::bind(Plan& plan) const {
  for (std::size_t i = 0; i < plan.source_slots.size(); ++i) plan.bound_sources[i].data = pointer(plan.source_slots[i]);
  for (std::size_t i = 0; i < plan.rows.size(); ++i) {
    const RowPlan& row = plan.rows[i];
    Row& bound = plan.bound_rows[i];
    bound.out = pointer(row.slot);
    bound.terms = row.terms.data();
    bound.store = bound.dtype == DType::float32 && batch_ * size_ >= kStreamed ? Store::streamed : Store::at_once;
    for (const Source& source : plan.bound_sources) {
      if (source.data != bound.out) continue;
      if (width(source.dtype) != width(bound.dtype))
        refuse("slot " + std::to_string(row.slot) + " is written over a source whose elements have another size");
      bound.store = Store::at_once;
    }
    for (const int slot : row.later_reads)
      if (pointers_[slot] == bound.out) bound.store = Store::held;
  }
  if (!plan.draws.empty() && !seeds_) refuse("the update draws normals and the program has no seeds: call seeds first");
  return {plan.bound_sources.data(),
          plan.draws.data(),
          plan.bound_rows.data(),
          static_cast<int>(plan.bound_sources.size()),
          static_cast<int>(plan.draws.size()),
          static_cast<int>(plan.bound_rows.size()),
          seeds_,
          // Without draws an element does not care which sample it is in.
          plan.draws.empty() ? batch_ * size_ : size_};
}

void Program::run(int number) {
  Plan& plan = plans_[checked(number, plans_.size(), "update")];
  const Update update = bind(plan);
  if (batch_ * size_ == 0) return;
  const std::int64_t tiles = batch_ * size_ / update.size * tiles_per_sample(update.size);
  const Kernels& chosen = kernels();
  for_tiles(tiles, plan.large ? threads_ : 1, [&](std::int64_t first, std::int64_t last) {
    const std::size_t views = plan.bound_sources.size() + plan.draws.size();
    chosen.update(update, first, last, Workspace::of_this_thread(plan.tiles, views));
  });
}

bool normals_are_large(std::int64_t batch, std::int64_t size) { return batch * size * kNormalWeight >= kLarge; }

void normals(float* out, const std::uint64_t* seeds, std::int64_t batch, std::int64_t size, Draw draw, int threads) {
  check_extent(batch, size, threads);
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
