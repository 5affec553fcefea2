#include "devices/block/workers.h"

#include <chrono>
#include <utility>

namespace embervm::devices {

namespace {

// An idle machine has no threads for its drives.
constexpr std::chrono::seconds kIdleTime{2};

}  // namespace

BlockWorkers::~BlockWorkers() {
  Drain();
  {
    const std::scoped_lock lock(mutex_);
    stopping_ = true;
  }
  added_.notify_all();
  // Each joins its thread.
  workers_.clear();
}

void BlockWorkers::Add(Job job) {
  bool all_busy = false;
  {
    const std::scoped_lock lock(mutex_);
    // Joins: the last that a thread does with the lock is to say that it ended.
    std::erase_if(workers_, [](const Worker& worker) { return worker.ended; });
    jobs_.push_back(std::move(job));
    all_busy = jobs_.size() > waiting_;
  }
  added_.notify_one();
  if (!all_busy || workers_.size() >= most_ || StartOne() || !workers_.empty()) return;
  // There is no thread, nor will there be one.
  for (;;) {
    std::unique_lock lock(mutex_);
    if (jobs_.empty()) return;
    Job next = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    next();
  }
}

void BlockWorkers::Drain() {
  std::unique_lock lock(mutex_);
  done_.wait(lock, [this] { return jobs_.empty() && working_ == 0; });
}

bool BlockWorkers::StartOne() {
  Worker& worker = workers_.emplace_back();
  Result<Thread> thread = Thread::Start("ember-disk", [this, &worker] { Work(worker); });
  if (!thread.has_value()) {
    workers_.pop_back();
    return false;
  }
  worker.thread = *std::move(thread);
  return true;
}

void BlockWorkers::Work(Worker& self) {
  std::unique_lock lock(mutex_);
  for (;;) {
    if (jobs_.empty()) {
      ++waiting_;
      const bool called =
          added_.wait_for(lock, kIdleTime, [this] { return stopping_ || !jobs_.empty(); });
      --waiting_;
      if (!called || jobs_.empty()) break;
    }
    Job job = std::move(jobs_.front());
    jobs_.pop_front();
    ++working_;
    lock.unlock();
    job();
    lock.lock();
    --working_;
    if (jobs_.empty() && working_ == 0) done_.notify_all();
  }
  self.ended = true;
}

}  // namespace embervm::devices
