#include "pool.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <system_error>
#include <thread>

namespace fastsolve {
namespace {

// Never deleted: workers wait in it until the process ends.
std::atomic<Pool*> current{nullptr};

}  // namespace

Pool& Pool::instance() {
  if (Pool* pool = current.load(std::memory_order_acquire)) return *pool;
  static const int registered = pthread_atfork(nullptr, nullptr, [] { current.store(nullptr); });
  static_cast<void>(registered);
  Pool *made = new Pool, *other = nullptr;
  if (current.compare_exchange_strong(other, made)) return *made;
  delete made;
  return *other;
}

void Pool::run(int threads, void (*work)(void*), void* context) {
  Job job{work, context, threads - 1, 0, {}};
  {
    std::lock_guard<std::mutex> lock(mutex_);
    hire(threads - 1);
    jobs_.push_back(&job);
  }
  for (int i = 1; i < threads; ++i) wanted_.notify_one();
  work(context);
  std::unique_lock<std::mutex> lock(mutex_);
  // What no worker has begun by now has nothing left to do.
  const auto place = std::find(jobs_.begin(), jobs_.end(), &job);
  if (place != jobs_.end()) jobs_.erase(place);
  job.finished.wait(lock, [&] { return job.running == 0; });
}

void Pool::hire(int workers) {
  try {
    for (; workers_ < workers; ++workers_) std::thread([this] { serve(); }).detach();
  } catch (const std::system_error&) {
    // The system gives no more threads; those at hand, at least the caller, do the work.
  }
}

void Pool::serve() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    wanted_.wait(lock, [this] { return !jobs_.empty(); });
    Job* job = jobs_.front();
    if (--job->unclaimed == 0) jobs_.pop_front();
    ++job->running;
    lock.unlock();
    job->work(job->context);
    lock.lock();
    if (--job->running == 0) job->finished.notify_one();
  }
}

}  // namespace fastsolve
