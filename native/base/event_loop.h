// EventLoop: the device thread of one machine. One epoll set, one timer heap,
// one queue of posted tasks. Everything but Post() and Stop() belongs to the
// thread that calls Run().
#ifndef EMBERVM_BASE_EVENT_LOOP_H_
#define EMBERVM_BASE_EVENT_LOOP_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace embervm {

class EventLoop {
 public:
  using Task = std::move_only_function<void()>;
  // Receives the EPOLL* bits that are ready.
  using FdHandler = std::function<void(std::uint32_t events)>;
  using Clock = std::chrono::steady_clock;
  using TimerId = std::uint64_t;

  static Result<std::unique_ptr<EventLoop>> Create();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;
  ~EventLoop();

  // Any thread. Tasks run in the order of the posts. A task posted after
  // Stop() took effect is destroyed unrun when the loop is destroyed.
  void Post(Task task);
  // Any thread. Run() returns after the tasks posted before this call.
  void Stop();

  // Processes events until Stop().
  void Run();

  // Loop thread. The handler is called while `events` (EPOLLIN, EPOLLOUT; level
  // triggered) hold. The descriptor stays the caller's; remove before closing.
  Result<> AddFd(int fd, std::uint32_t events, FdHandler handler);
  Result<> ModifyFd(int fd, std::uint32_t events);
  // A handler may remove its own or any other descriptor.
  void RemoveFd(int fd);

  TimerId AddTimer(Clock::duration delay, Task task);
  void CancelTimer(TimerId id);

 private:
  struct Watch {
    std::uint64_t generation;
    std::shared_ptr<FdHandler> handler;
  };

  EventLoop(UniqueFd epoll, UniqueFd wake);
  void RunTasks();
  void RunTimers();
  [[nodiscard]] int MillisecondsToNextTimer() const;
  void Wake() const;

  UniqueFd epoll_;
  UniqueFd wake_;
  std::unordered_map<int, Watch> watches_;
  // Told apart by generation: a descriptor number may be reused within a batch.
  std::uint64_t next_generation_ = 1;
  std::map<std::pair<Clock::time_point, TimerId>, Task> timers_;
  std::unordered_map<TimerId, Clock::time_point> timer_deadlines_;
  TimerId next_timer_ = 1;
  bool stopping_ = false;

  std::mutex mutex_;
  std::vector<Task> tasks_;  // Guarded by mutex_.
};

}  // namespace embervm

#endif  // EMBERVM_BASE_EVENT_LOOP_H_
