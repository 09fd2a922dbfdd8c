#include "text.h"

#include <set>
#include <stdexcept>

namespace fastsolve {
namespace {

std::string range(std::size_t count) {
  return count == 0 ? "there are none" : "allowed are 0 to " + std::to_string(count - 1);
}

std::string place(std::size_t number) { return "update " + std::to_string(number) + ": "; }

void check_terms(const std::vector<int>& terms, std::int64_t offset, std::size_t positions, const std::string& what) {
  if (terms.empty()) refuse(what + " has no terms");
  if (offset < 0) refuse(what + " has the negative offset " + std::to_string(offset));
  for (const int term : terms)
    if (term < 0 || static_cast<std::size_t>(term) >= positions)
      refuse(what + " has the term " + std::to_string(term) + ", " + range(positions));
}

}  // namespace

void refuse(const std::string& text) { throw std::invalid_argument(text); }

void check_extent(std::int64_t batch, std::int64_t size) {
  if (batch < 0 || size < 0)
    refuse("batch " + std::to_string(batch) + " and size " + std::to_string(size) + " must not be negative");
}

void check_stride(std::int64_t stride) {
  if (stride < 0) refuse("stride " + std::to_string(stride) + " must not be negative");
}

std::size_t checked(int index, std::size_t count, const char* what) {
  if (index < 0 || static_cast<std::size_t>(index) >= count)
    refuse(std::string(what) + " " + std::to_string(index) + " does not exist: " + range(count));
  return static_cast<std::size_t>(index);
}

std::vector<MidText> mids_of(const MidTexts& mids, const std::vector<UpdateText>& updates, std::size_t number) {
  if (mids.empty()) return {};
  if (mids.size() != updates.size())
    refuse("mids of " + std::to_string(mids.size()) + " updates, and there are " + std::to_string(updates.size()));
  const auto& [sources, draws, rows] = updates[number];
  for (std::size_t i = 0; i < mids[number].size(); ++i) {
    const auto& [op, terms, offset, mask, known] = mids[number][i];
    const std::string what = place(number) + "mid " + std::to_string(i);
    if (op != "clip" && op != "blend") refuse(what + " has the op '" + op + "': there are clip and blend");
    check_terms(terms, offset, sources.size() + draws.size() + i, what);
    for (const int source : {mask, known})
      if (op == "blend" && (source < 0 || static_cast<std::size_t>(source) >= sources.size()))
        refuse(what + " blends by source " + std::to_string(source) + ", " + range(sources.size()));
  }
  return mids[number];
}

void check_update(const UpdateText& text, std::size_t mids, std::size_t number, std::size_t slots) {
  const auto& [sources, draws, rows] = text;
  const std::string where = place(number);
  const auto check_slot = [&](int index, const std::string& what) {
    if (index < 0 || static_cast<std::size_t>(index) >= slots)
      refuse(where + what + " names slot " + std::to_string(index) + ", " + range(slots));
  };
  for (std::size_t i = 0; i < sources.size(); ++i) check_slot(sources[i], "source " + std::to_string(i));

  const std::size_t positions = sources.size() + draws.size() + mids;
  std::set<int> outs;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto& [out, terms, offset] = rows[i];
    const std::string row = "row " + std::to_string(i);
    check_slot(out, row);
    if (!outs.insert(out).second) refuse(where + row + " writes slot " + std::to_string(out) + ", as an earlier row does");
    check_terms(terms, offset, positions, where + row);
  }
}

Slots::Slots(const std::vector<int>& dtypes) : pointers_(dtypes.size()) {
  for (std::size_t i = 0; i < dtypes.size(); ++i) {
    if (dtypes[i] < 0 || dtypes[i] > 2)
      refuse("dtype " + std::to_string(dtypes[i]) + " of slot " + std::to_string(i) +
             " is unknown: 0 is float32, 1 bfloat16, 2 float16");
    dtypes_.push_back(static_cast<DType>(dtypes[i]));
  }
}

}  // namespace fastsolve
