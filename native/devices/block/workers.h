// BlockWorkers: the threads of a drive that may wait for the host's disk, so that the thread of
// the machine's devices does not.
#ifndef EMBERVM_DEVICES_BLOCK_WORKERS_H_
#define EMBERVM_DEVICES_BLOCK_WORKERS_H_

#include <condition_variable>
#include <deque>
#include <functional>
#include <list>
#include <mutex>

#include "base/thread.h"

namespace embervm::devices {

class BlockWorkers {
 public:
  using Job = std::move_only_function<void()>;

  // At most `most` threads. They come with the first jobs, and go after a while without.
  explicit BlockWorkers(unsigned most) : most_(most) {}
  BlockWorkers(const BlockWorkers&) = delete;
  BlockWorkers& operator=(const BlockWorkers&) = delete;
  // Does all jobs first.
  ~BlockWorkers();

  // One thread may call these.
  // Jobs begin in the order in which they came. Where the host has no thread to give, the job is
  // done at once.
  void Add(Job job);
  // Until all that was added is done.
  void Drain();

 private:
  struct Worker {
    Thread thread;
    // It does nothing more; guarded by mutex_.
    bool ended = false;
  };

  bool StartOne();
  void Work(Worker& self);

  const unsigned most_;
  // Only the owner's thread changes the list.
  std::list<Worker> workers_;

  std::mutex mutex_;
  // All below is guarded by mutex_.
  std::condition_variable added_;
  std::condition_variable done_;
  std::deque<Job> jobs_;
  unsigned waiting_ = 0;
  unsigned working_ = 0;
  bool stopping_ = false;
};

}  // namespace embervm::devices

#endif  // EMBERVM_DEVICES_BLOCK_WORKERS_H_
