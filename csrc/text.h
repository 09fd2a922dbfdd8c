// The updates of a plan as they come from Python, checked once, and the pointers of their slots.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "dtype.h"

namespace fastsolve {

// (source slots, draws as (stream, number), rows as (out slot, term positions, offset of the coefficients in the table))
using RowText = std::tuple<int, std::vector<int>, std::int64_t>;
using UpdateText = std::tuple<std::vector<int>, std::vector<std::pair<std::uint32_t, std::uint32_t>>, std::vector<RowText>>;
// A value that later mids and the rows name after sources and draws: (op, term positions, offset of their coefficients and of the
// op's own behind them, positions of the sources mask and known, or whatever where op is not "blend").
using MidText = std::tuple<std::string, std::vector<int>, std::int64_t, int, int>;
using MidTexts = std::vector<std::vector<MidText>>;  // those of each update; or empty, and no update has any

[[noreturn]] void refuse(const std::string& text);  // std::invalid_argument

void check_extent(std::int64_t batch, std::int64_t size);
void check_stride(std::int64_t stride);

// Those of an update, checked. Throws if they are not as many as the updates, or name positions that do not exist.
std::vector<MidText> mids_of(const MidTexts& mids, const std::vector<UpdateText>& updates, std::size_t number);

// Throws if an update names slots or positions that do not exist, or writes one twice.
void check_update(const UpdateText& text, std::size_t mids, std::size_t number, std::size_t slots);

std::size_t checked(int index, std::size_t count, const char* what);

inline int width(DType dtype) { return dtype == DType::float32 ? 4 : 2; }

class Slots {
 public:
  explicit Slots(const std::vector<int>& dtypes);

  std::size_t size() const { return dtypes_.size(); }
  DType dtype(int slot) const { return dtypes_[slot]; }
  void set(int slot, void* pointer) { pointers_[checked(slot, size(), "slot")] = pointer; }
  // Throws where none was set.
  void* pointer(int slot) const {
    if (!pointers_[slot]) refuse("slot " + std::to_string(slot) + " has no pointer: call set first");
    return pointers_[slot];
  }

  // Whether what is about to be written is also read. Throws if it is read as elements of another size.
  bool are_one(int out, int source) const {
    if (pointers_[out] != pointers_[source]) return false;
    if (width(dtypes_[out]) != width(dtypes_[source]))
      refuse("slot " + std::to_string(out) + " is written over a source whose elements have another size");
    return true;
  }

 private:
  std::vector<DType> dtypes_;
  std::vector<void*> pointers_;
};

}  // namespace fastsolve
