// The updates of a plan as launches, prepared once: a step fills in pointers and starts a kernel. Memory is the caller's.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "../text.h"
#include "launch.h"

namespace fastsolve::cuda {

class Program {
 public:
  // table: coefficients; draws: those of all updates, one after the other. Both on the device. stride: from one sample's part of
  // the table to the next one's; 0: all share it.
  Program(const std::vector<int>& dtypes, const float* table, const Draw* draws, const std::vector<UpdateText>& updates,
          std::int64_t batch, std::int64_t size, int device, const MidTexts& mids, std::int64_t stride);

  void set(int slot, void* pointer) { slots_.set(slot, pointer); }
  void seeds(const std::uint64_t* pointer) { seeds_ = pointer; }
  void run(int update, void* stream);  // std::runtime_error if CUDA refuses

 private:
  struct Plan {
    std::vector<int> sources, outs;  // slots
    bool draws;
    unsigned blocks;
    Kernel kernel;        // null: `general` runs
    std::uint32_t whole;  // groups that may be vectors if pointers are aligned
    Update update;
    std::unique_ptr<GeneralUpdate> general;
  };

  Plan make_plan(const UpdateText& text, const std::vector<MidText>& mids, std::size_t number, const Draw* draws,
                 int first_draw) const;
  bool arrange(Plan& plan, const UpdateText& text) const;
  bool divide(Plan& plan, bool draws, int groups) const;
  void generalise(Plan& plan, const UpdateText& text, const std::vector<MidText>& mids, std::size_t number) const;
  template <class Any>
  void bind(const Plan& plan, Any& update) const;
  bool is_aligned(const Plan& plan) const;

  Slots slots_;
  std::vector<Plan> plans_;
  const float* table_;
  const std::uint64_t* seeds_ = nullptr;
  std::int64_t batch_, size_, stride_;
  int device_;
};

}  // namespace fastsolve::cuda
