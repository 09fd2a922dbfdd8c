// One order of terms for all rows of an update.
#pragma once

#include <vector>

namespace fastsolve::cuda {

// The shortest found sequence that has every one of `rows` as a subsequence. An element stands twice in it only where rows
// disagree on an order, or where a row names it twice.
std::vector<int> common_order(std::vector<std::vector<int>> rows);

// For each place of `order` how many terms of `row` come before it there, or -1 where the row leaves it out.
std::vector<int> places(const std::vector<int>& row, const std::vector<int>& order);

}  // namespace fastsolve::cuda
