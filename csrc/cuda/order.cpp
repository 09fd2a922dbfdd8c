#include "order.h"

#include <algorithm>

namespace fastsolve::cuda {

std::vector<int> common_order(std::vector<std::vector<int>> rows) {
  std::vector<int> order;
  for (;;) {
    rows.erase(std::remove_if(rows.begin(), rows.end(), [](const auto& row) { return row.empty(); }), rows.end());
    if (rows.empty()) return order;
    // What no row wants later can come now. If every head is wanted later, one of them comes twice.
    const auto ready = std::find_if(rows.begin(), rows.end(), [&](const auto& candidate) {
      return std::none_of(rows.begin(), rows.end(), [&](const auto& row) {
        return std::find(row.begin() + 1, row.end(), candidate.front()) != row.end();
      });
    });
    const int next = (ready == rows.end() ? rows.begin() : ready)->front();
    order.push_back(next);
    for (auto& row : rows)
      if (row.front() == next) row.erase(row.begin());
  }
}

std::vector<int> places(const std::vector<int>& row, const std::vector<int>& order) {
  std::vector<int> found;
  std::size_t done = 0;
  for (const int element : order) found.push_back(done < row.size() && row[done] == element ? static_cast<int>(done++) : -1);
  return found;
}

}  // namespace fastsolve::cuda
