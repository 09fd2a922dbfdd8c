// A few threads that wait for large work. One pool per process, made when first needed and again in a forked child, whose
// copy of it has no threads.
#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>

namespace fastsolve {

class Pool {
 public:
  static Pool& instance();

  // Calls work(context) on up to `threads` threads at once, this one among them, and returns when all have returned. Each
  // call must take its share until nothing is left: if no thread can be had, the caller does everything. May be called by
  // several threads at a time.
  void run(int threads, void (*work)(void*), void* context);

 private:
  struct Job {
    void (*work)(void*);
    void* context;
    int unclaimed;  // calls that no worker has begun
    int running;
    std::condition_variable finished;
  };

  void hire(int workers);
  void serve();

  std::mutex mutex_;
  std::condition_variable wanted_;
  std::deque<Job*> jobs_;  // those with unclaimed calls
  int workers_ = 0;
};

}  // namespace fastsolve
