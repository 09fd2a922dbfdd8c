// The updates of a plan with their slots, validated once, so that a step only fills in pointers.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.h"
#include "text.h"

namespace fastsolve {

class Program {
 public:
  // stride: from one sample's part of the table to the next one's; 0: all share it.
  Program(const std::vector<int>& dtypes, const float* table, const std::vector<UpdateText>& updates, std::int64_t batch,
          std::int64_t size, int threads, const MidTexts& mids, std::int64_t stride);

  void set(int slot, void* pointer) { slots_.set(slot, pointer); }
  void seeds(const std::uint64_t* pointer) { seeds_ = pointer; }
  void run(int update);

  // Long enough to be worth other threads, and to let other Python threads run.
  bool is_large(int update) const { return plan(update).large; }

 private:
  struct RowPlan {
    int slot;
    std::vector<int> terms;
    std::vector<int> later_reads;  // slots of sources that later rows read in place
  };

  struct Plan {
    std::vector<int> source_slots;
    std::vector<Draw> draws;
    std::vector<std::vector<int>> mid_terms;
    std::vector<RowPlan> rows;
    std::vector<Source> bound_sources;  // with the pointers of the last run
    std::vector<Mid> bound_mids;
    std::vector<Row> bound_rows;
    std::size_t tiles;  // of scratch
    bool large;
  };

  const Plan& plan(int update) const { return plans_[checked(update, plans_.size(), "update")]; }
  Plan make_plan(const UpdateText& text, const std::vector<MidText>& mids, const float* table) const;
  Update bind(Plan& plan) const;

  Slots slots_;
  std::vector<Plan> plans_;
  const std::uint64_t* seeds_ = nullptr;
  std::int64_t batch_, size_, stride_;
  int threads_;
};

// float32 [batch, size]: draw `draw` of `stream` for every sample.
void normals(float* out, const std::uint64_t* seeds, std::int64_t batch, std::int64_t size, Draw draw, int threads);
bool normals_are_large(std::int64_t batch, std::int64_t size);

}  // namespace fastsolve
