#include "program.h"

#include <algorithm>
#include <stdexcept>

#include "order.h"
#include "tile.h"

namespace fastsolve::cuda {
namespace {

constexpr std::int64_t kMostGroups = std::int64_t{1} << 31;  // from there on the division by a product is not exact

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

bool is_aligned_for_vectors(const void* pointer, DType dtype) {
  return reinterpret_cast<std::uintptr_t>(pointer) % (4 * width(dtype)) == 0;
}

void check(int error, std::size_t number) {
  if (error) throw std::runtime_error("update " + std::to_string(number) + ": " + error_text(error));
}

}  // namespace

Program::Program(const std::vector<int>& dtypes, const float* table, const Draw* draws,
                 const std::vector<UpdateText>& updates, std::int64_t batch, std::int64_t size, int device,
                 const MidTexts& mids, std::int64_t stride)
    : slots_(dtypes), table_(table), batch_(batch), size_(size), stride_(stride), device_(device) {
  check_extent(batch, size);
  check_stride(stride);
  if (!table && !updates.empty()) refuse("the coefficient table is a null pointer");
  int first_draw = 0;
  for (std::size_t i = 0; i < updates.size(); ++i) {
    const std::vector<MidText> own = mids_of(mids, updates, i);
    check_update(updates[i], own.size(), i, slots_.size());
    if (!draws && !std::get<1>(updates[i]).empty()) refuse("the table of draws is a null pointer");
    plans_.push_back(make_plan(updates[i], own, i, draws, first_draw));
    first_draw += static_cast<int>(std::get<1>(updates[i]).size());
  }
}

Program::Plan Program::make_plan(const UpdateText& text, const std::vector<MidText>& mids, std::size_t number,
                                 const Draw* draws, int first_draw) const {
  const auto& [sources, numbers, rows] = text;
  Plan plan{};
  plan.draws = !numbers.empty();
  for (const auto& row : rows) plan.outs.push_back(std::get<0>(row));
  plan.update.draws = draws + first_draw;
  if (stride_ != 0 || !mids.empty() || !arrange(plan, text)) {
    plan.kernel = nullptr;
    plan.sources = sources;
    plan.general = std::make_unique<GeneralUpdate>();
    plan.general->draws = draws + first_draw;
    generalise(plan, text, mids, number);
  }
  check(plan.kernel ? load(device_, plan.kernel) : load_general(device_), number);
  return plan;
}

// Gives the update the kernel of its pattern; false if it has none.
bool Program::arrange(Plan& plan, const UpdateText& text) const {
  const auto& [source_slots, numbers, rows] = text;
  const int source_count = static_cast<int>(source_slots.size());
  if (rows.empty() || rows.size() > kMaxRows) return false;
  std::vector<std::vector<int>> of_sources, of_draws;
  for (const auto& [out, terms, offset] : rows) {
    const auto is_source = [&](int term) { return term < source_count; };
    if (!std::is_partitioned(terms.begin(), terms.end(), is_source)) return false;
    const auto draws = std::partition_point(terms.begin(), terms.end(), is_source);
    of_sources.emplace_back(terms.begin(), draws);
    of_draws.emplace_back(draws, terms.end());
  }
  const std::vector<int> sources = common_order(of_sources), draws = common_order(of_draws);
  const auto is_all = [](const auto& order) { return [&order](const auto& row) { return row == order; }; };
  const bool full = std::all_of(of_sources.begin(), of_sources.end(), is_all(sources)) &&
                    std::all_of(of_draws.begin(), of_draws.end(), is_all(draws));
  bool mixed = false;
  for (const int term : sources) mixed |= slots_.dtype(source_slots[term]) != DType::float32;
  for (const int slot : plan.outs) mixed |= slots_.dtype(slot) != DType::float32;

  Update& update = plan.update;
  update.source_count = static_cast<int>(sources.size());
  update.draw_count = static_cast<int>(draws.size());
  update.row_count = static_cast<int>(rows.size());
  const Variant variant = choose_variant(update.source_count, update.draw_count, mixed, full);
  if (!variant.kernel || !divide(plan, !draws.empty(), variant.groups)) return false;
  plan.kernel = variant.kernel;
  update.table = table_;
  for (std::size_t p = 0; p < sources.size(); ++p) {
    plan.sources.push_back(source_slots[sources[p]]);
    update.dtypes[p] = slots_.dtype(plan.sources[p]);
  }
  for (std::size_t d = 0; d < draws.size(); ++d) update.draw_at[d] = draws[d] - source_count;
  const int first_draw = variant.sources + variant.draws - update.draw_count;
  for (std::size_t r = 0; r < rows.size(); ++r) {
    Row& row = update.rows[r];
    row.dtype = slots_.dtype(plan.outs[r]);
    std::fill(std::begin(row.at), std::end(row.at), -1);
    const auto place = [&, offset = std::get<2>(rows[r])](const std::vector<int>& terms, const std::vector<int>& order,
                                                          int position, std::int64_t before) {
      for (const int i : places(terms, order)) row.at[position++] = i < 0 ? -1 : static_cast<int>(offset + before + i);
    };
    place(of_sources[r], sources, 0, 0);
    place(of_draws[r], draws, first_draw, static_cast<std::int64_t>(of_sources[r].size()));
  }
  return true;
}

// Shares out groups of four elements; false if they are too many to be counted in 32 bits.
bool Program::divide(Plan& plan, bool draws, int groups) const {
  Update& update = plan.update;
  // Without draws an element does not care which sample it is in.
  const std::int64_t samples = draws ? batch_ : 1;
  update.size = draws ? size_ : batch_ * size_;
  const std::int64_t per_sample = ceil_div(update.size, 4), all = samples * per_sample;
  if (all >= kMostGroups) return false;
  update.groups = static_cast<std::uint32_t>(all);
  update.per_sample = static_cast<std::uint32_t>(std::max<std::int64_t>(per_sample, 1));
  plan.whole = static_cast<std::uint32_t>(update.size % 4 == 0 ? all : samples == 1 ? update.size / 4 : 0);
  plan.blocks = static_cast<unsigned>(ceil_div(all, groups * kThreads));
  // n / d = (n * multiplier / 2^32 + n) / 2^shift for n < 2^31: Granlund, Montgomery 1994, figure 4.1.
  while ((std::uint64_t{1} << update.shift) < update.per_sample) ++update.shift;
  const std::uint64_t beyond = (std::uint64_t{1} << update.shift) - update.per_sample;
  update.multiplier = static_cast<std::uint32_t>((beyond << 32) / update.per_sample + 1);
  return true;
}

void Program::generalise(Plan& plan, const UpdateText& text, const std::vector<MidText>& mids, std::size_t number) const {
  const auto& [sources, numbers, rows] = text;
  GeneralUpdate& update = *plan.general;
  const auto limit = [&](std::size_t count, int most, const char* what) {
    if (count > static_cast<std::size_t>(most))
      refuse("update " + std::to_string(number) + " has " + std::to_string(count) + " " + what + ", a kernel takes at most " +
             std::to_string(most));
  };
  limit(sources.size(), kMostSources, "sources");
  limit(numbers.size(), kMostDraws, "draws");
  limit(mids.size(), kMostMids, "mids");
  limit(rows.size(), kMostRows, "rows");
  update.table = table_;
  update.size = size_;
  update.elements = batch_ * size_;
  update.stride = stride_;
  update.source_count = static_cast<int>(sources.size());
  update.draw_count = static_cast<int>(numbers.size());
  update.mid_count = static_cast<int>(mids.size());
  update.row_count = static_cast<int>(rows.size());
  for (std::size_t i = 0; i < sources.size(); ++i) update.dtypes[i] = static_cast<std::uint8_t>(slots_.dtype(sources[i]));
  std::size_t used = 0;
  const auto add_sum = [&](std::size_t i, const std::vector<int>& terms, std::int64_t offset) {
    limit(used + terms.size(), kMostTerms, "terms");
    update.sums[i] = {static_cast<int>(offset), static_cast<int>(used), static_cast<int>(terms.size())};
    for (const int term : terms) update.terms[used++] = static_cast<std::uint8_t>(term);
  };
  for (std::size_t m = 0; m < mids.size(); ++m) {
    const auto& [op, terms, offset, mask, known] = mids[m];
    add_sum(m, terms, offset);
    update.mids[m] = {op == "blend" ? mask : -1, known};
  }
  for (std::size_t r = 0; r < rows.size(); ++r) {
    const auto& [out, terms, offset] = rows[r];
    add_sum(mids.size() + r, terms, offset);
    update.rows[r] = {nullptr, slots_.dtype(out)};
  }
  plan.blocks = static_cast<unsigned>(ceil_div(update.elements, kThreads));
}

template <class Any>
void Program::bind(const Plan& plan, Any& update) const {
  for (std::size_t i = 0; i < plan.sources.size(); ++i) update.sources[i] = slots_.pointer(plan.sources[i]);
  for (std::size_t i = 0; i < plan.outs.size(); ++i) update.rows[i].out = slots_.pointer(plan.outs[i]);
  for (const int out : plan.outs)
    for (const int source : plan.sources) slots_.are_one(out, source);
  if (plan.draws && !seeds_) refuse("the update draws normals and the program has no seeds: call seeds first");
  update.seeds = seeds_;
}

bool Program::is_aligned(const Plan& plan) const {
  const auto aligned = [this](int slot) { return is_aligned_for_vectors(slots_.pointer(slot), slots_.dtype(slot)); };
  return std::all_of(plan.sources.begin(), plan.sources.end(), aligned) &&
         std::all_of(plan.outs.begin(), plan.outs.end(), aligned);
}

void Program::run(int index, void* stream) {
  const std::size_t number = checked(index, plans_.size(), "update");
  Plan& plan = plans_[number];
  if (plan.kernel) {
    bind(plan, plan.update);
    plan.update.whole = is_aligned(plan) ? plan.whole : 0;
  } else {
    bind(plan, *plan.general);
  }
  if (plan.blocks == 0) return;
  check(plan.kernel ? launch(device_, plan.kernel, plan.update, plan.blocks, stream)
                    : launch_general(device_, *plan.general, plan.blocks, stream),
        number);
}

}  // namespace fastsolve::cuda
