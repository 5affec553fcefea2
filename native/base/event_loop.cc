#include "base/event_loop.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <limits>

namespace embervm {

namespace {

// Watch generations are never 0, so 0 in epoll data means the wake descriptor.
constexpr std::uint64_t kWakeToken = 0;
constexpr std::size_t kMaxEvents = 64;

// The token carries the descriptor in its low half and its generation in the
// high half; 2^32 re-registrations of one descriptor within a batch cannot be.
constexpr unsigned kGenerationShift = 32;

std::uint64_t Token(int fd, std::uint64_t generation) {
  return (generation << kGenerationShift) | static_cast<std::uint32_t>(fd);
}

}  // namespace

Result<std::unique_ptr<EventLoop>> EventLoop::Create() {
  UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid()) {
    return std::unexpected(
        Error::FromErrno("ERR_RESOURCE_LIMIT", "epoll_create1", errno, "event loop"));
  }
  UniqueFd wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake.valid()) {
    return std::unexpected(Error::FromErrno("ERR_RESOURCE_LIMIT", "eventfd", errno, "event loop"));
  }
  epoll_event event{.events = EPOLLIN, .data = {.u64 = kWakeToken}};
  if (::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, wake.get(), &event) != 0) {
    return std::unexpected(
        Error::FromErrno("ERR_RESOURCE_LIMIT", "epoll_ctl", errno, "event loop"));
  }
  return std::unique_ptr<EventLoop>(new EventLoop(std::move(epoll), std::move(wake)));
}

EventLoop::EventLoop(UniqueFd epoll, UniqueFd wake)
    : epoll_(std::move(epoll)), wake_(std::move(wake)) {}

EventLoop::~EventLoop() = default;

void EventLoop::Wake() const {
  const std::uint64_t one = 1;
  // The counter cannot overflow: the loop reads it back to zero.
  [[maybe_unused]] const ssize_t written = ::write(wake_.get(), &one, sizeof(one));
}

void EventLoop::Post(Task task) {
  bool first = false;
  {
    const std::lock_guard lock(mutex_);
    first = tasks_.empty();
    tasks_.push_back(std::move(task));
  }
  if (first) Wake();
}

void EventLoop::Stop() {
  Post([this] { stopping_ = true; });
}

Result<> EventLoop::AddFd(int fd, std::uint32_t events, FdHandler handler) {
  const std::uint64_t generation = next_generation_++;
  epoll_event event{.events = events, .data = {.u64 = Token(fd, generation)}};
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
    return std::unexpected(
        Error::FromErrno("ERR_RESOURCE_LIMIT", "epoll_ctl", errno, "watch a descriptor"));
  }
  watches_[fd] = Watch{generation, std::make_shared<FdHandler>(std::move(handler))};
  return {};
}

Result<> EventLoop::ModifyFd(int fd, std::uint32_t events) {
  const auto watch = watches_.find(fd);
  if (watch == watches_.end()) {
    return std::unexpected(Error("ERR_INTERNAL", "event loop: descriptor is not watched"));
  }
  epoll_event event{.events = events, .data = {.u64 = Token(fd, watch->second.generation)}};
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event) != 0) {
    return std::unexpected(
        Error::FromErrno("ERR_RESOURCE_LIMIT", "epoll_ctl", errno, "watch a descriptor"));
  }
  return {};
}

void EventLoop::RemoveFd(int fd) {
  if (watches_.erase(fd) == 0) return;
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

EventLoop::TimerId EventLoop::AddTimer(Clock::duration delay, Task task) {
  const TimerId id = next_timer_++;
  const Clock::time_point deadline = Clock::now() + delay;
  timers_.emplace(std::pair(deadline, id), std::move(task));
  timer_deadlines_.emplace(id, deadline);
  return id;
}

void EventLoop::CancelTimer(TimerId id) {
  const auto deadline = timer_deadlines_.find(id);
  if (deadline == timer_deadlines_.end()) return;
  timers_.erase({deadline->second, id});
  timer_deadlines_.erase(deadline);
}

int EventLoop::MillisecondsToNextTimer() const {
  if (timers_.empty()) return -1;
  const auto left = timers_.begin()->first.first - Clock::now();
  // Rounded up: waking early would spin until the deadline.
  const auto milliseconds = std::chrono::ceil<std::chrono::milliseconds>(left).count();
  return static_cast<int>(
      std::clamp<std::int64_t>(milliseconds, 0, std::numeric_limits<int>::max()));
}

void EventLoop::RunTimers() {
  const Clock::time_point now = Clock::now();
  while (!timers_.empty() && timers_.begin()->first.first <= now) {
    auto node = timers_.extract(timers_.begin());
    timer_deadlines_.erase(node.key().second);
    node.mapped()();
  }
}

void EventLoop::RunTasks() {
  std::uint64_t count = 0;
  [[maybe_unused]] const ssize_t got = ::read(wake_.get(), &count, sizeof(count));
  std::vector<Task> tasks;
  {
    const std::lock_guard lock(mutex_);
    tasks.swap(tasks_);
  }
  for (Task& task : tasks) task();
}

void EventLoop::Run() {
  std::array<epoll_event, kMaxEvents> events{};
  while (!stopping_) {
    const int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()),
                                   MillisecondsToNextTimer());
    for (int i = 0; i < count; ++i) {
      const epoll_event& event = events.at(static_cast<std::size_t>(i));
      if (event.data.u64 == kWakeToken) {
        RunTasks();
        continue;
      }
      const int fd = static_cast<int>(event.data.u64 & 0xffffffffU);
      const auto watch = watches_.find(fd);
      // Removed, or removed and added anew, by an earlier handler of this batch.
      if (watch == watches_.end() || Token(fd, watch->second.generation) != event.data.u64) {
        continue;
      }
      // The handler may remove itself: keep it alive during its own call.
      const std::shared_ptr<FdHandler> handler = watch->second.handler;
      (*handler)(event.events);
    }
    RunTimers();
  }
  stopping_ = false;
}

}  // namespace embervm
