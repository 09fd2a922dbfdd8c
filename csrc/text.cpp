#include "text.h"

#include <set>
#include <stdexcept>

namespace fastsolve {
namespace {

std::string range(std::size_t count) {
  return count == 0 ? "there are none" : "allowed are 0 to " + std::to_string(count - 1);
}

}  // namespace

void refuse(const std::string& text) { throw std::invalid_argument(text); }

void check_extent(std::int64_t batch, std::int64_t size) {
  if (batch < 0 || size < 0)
    refuse("batch " + std::to_string(batch) + " and size " + std::to_string(size) + " must not be negative");
}

std::size_t checked(int index, std::size_t count, const char* what) {
  if (index < 0 || static_cast<std::size_t>(index) >= count)
    refuse(std::string(what) + " " + std::to_string(index) + " does not exist: " + range(count));
  return static_cast<std::size_t>(index);
}

void check_update(const UpdateText& text, std::size_t number, std::size_t slots) {
  const auto& [sources, draws, rows] = text;
  const std::string where = "update " + std::to_string(number) + ": ";
  const auto check_slot = [&](int index, const std::string& what) {
    if (index < 0 || static_cast<std::size_t>(index) >= slots)
      refuse(where + what + " names slot " + std::to_string(index) + ", " + range(slots));
  };
  for (std::size_t i = 0; i < sources.size(); ++i) check_slot(sources[i], "source " + std::to_string(i));

  const std::size_t positions = sources.size() + draws.size();
  std::set<int> outs;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto& [out, terms, offset] = rows[i];
    const std::string row = "row " + std::to_string(i);
    check_slot(out, row);
    if (!outs.insert(out).second) refuse(where + row + " writes slot " + std::to_string(out) + ", as an earlier row does");
    if (terms.empty()) refuse(where + row + " has no terms");
    if (offset < 0) refuse(where + row + " has the negative offset " + std::to_string(offset));
    for (const int term : terms)
      if (term < 0 || static_cast<std::size_t>(term) >= positions)
        refuse(where + row + " has the term " + std::to_string(term) + ", " + range(positions));
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
