// DeviceRig: a virtio device on a thread of its own and its queues in real guest memory, without
// a machine: what a benchmark drives. A kick is an eventfd, as KVM's ioeventfd gives it; an
// interrupt is one too, as with irqfd. Who waits for one looks for it a while before it sleeps, as
// KVM does for a CPU that halts (halt_poll_ns): the device pays for the interrupt, and not for
// waking a thread.
#ifndef EMBERVM_BENCH_DEVICE_RIG_H_
#define EMBERVM_BENCH_DEVICE_RIG_H_

#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <semaphore>
#include <span>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "base/event_loop.h"
#include "base/unique_fd.h"
#include "memory/guest_memory.h"
#include "test/support/driver_queue.h"
#include "virtio/device.h"

namespace embervm::bench {

[[noreturn]] inline void Quit(const char* what) {
  std::fprintf(stderr, "%s\n", what);
  std::_Exit(1);
}

class DeviceRig final : private virtio::DeviceHost {
 public:
  using MakeDevice = std::function<std::unique_ptr<virtio::Device>(EventLoop&)>;

  DeviceRig(std::uint64_t memory_bytes, const MakeDevice& make)
      : memory_(GuestMemory::Create(memory_bytes).value()),
        arena_(memory_, kArenaBase),
        loop_(EventLoop::Create().value()),
        device_(make(*loop_)) {
    for (const std::uint16_t size : device_->queue_sizes()) {
      drivers_.emplace_back(arena_, size, virtio::kRingFeatures);
      queues_.push_back(
          virtio::Queue::Create(memory_, drivers_.back().Config(size), virtio::kRingFeatures)
              .value());
      kicks_.emplace_back(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
    }
    context_ = std::make_unique<virtio::DeviceContext>(
        virtio::DeviceContext{.memory = memory_,
                              .loop = *loop_,
                              .host = *this,
                              .queues = queues_,
                              .features = virtio::kRingFeatures});
    if (!device_->Activate(*context_).has_value()) Quit("the device was not activated");
    for (std::uint16_t index = 0; index < kicks_.size(); ++index) {
      const int fd = kicks_[index].get();
      const auto watched = loop_->AddFd(fd, EPOLLIN, [this, fd, index](std::uint32_t) {
        eventfd_t count = 0;
        ::eventfd_read(fd, &count);
        device_->Notify(index);
      });
      if (!watched.has_value()) Quit("a kick cannot be watched");
    }
    thread_ = std::thread([this] { loop_->Run(); });
  }
  DeviceRig(const DeviceRig&) = delete;
  DeviceRig& operator=(const DeviceRig&) = delete;
  ~DeviceRig() {
    loop_->Stop();
    thread_.join();
    device_->Reset();
    for (const UniqueFd& kick : kicks_) loop_->RemoveFd(kick.get());
  }

  [[nodiscard]] virtio::Device& device() { return *device_; }
  [[nodiscard]] EventLoop& loop() { return *loop_; }
  [[nodiscard]] const GuestMemory& memory() const { return memory_; }
  [[nodiscard]] test::GuestArena& arena() { return arena_; }
  [[nodiscard]] test::DriverQueue& queue(std::size_t index) { return drivers_.at(index); }
  [[nodiscard]] std::uint64_t kicks() const { return kick_count_; }
  [[nodiscard]] std::uint64_t interrupts() const { return interrupt_count_.load(); }

  // A notification, where the device asked for one.
  void KickIfAsked(std::uint16_t index) {
    // Pairs with the fence in Queue::PublishUsed.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (!drivers_[index].TakeKick()) return;
    ++kick_count_;
    ::eventfd_write(kicks_[index].get(), 1);
  }
  void WaitForInterrupt() {
    const auto until = std::chrono::steady_clock::now() + kHaltPoll;
    while (std::chrono::steady_clock::now() < until) {
      if (interrupt_.try_acquire()) return;
    }
    interrupt_.acquire();
  }

 private:
  static constexpr GuestAddr kArenaBase = 0x10000;
  // KVM's default on x86.
  static constexpr std::chrono::microseconds kHaltPoll{200};

  void SignalQueues() override {
    interrupt_count_.fetch_add(1, std::memory_order_relaxed);
    ::eventfd_write(irq_.get(), 1);
    interrupt_.release();
  }
  void PublishConfig(std::span<const std::byte>) override {}
  void ShowConfig(std::span<const std::byte>) override {}
  void Kick(std::uint16_t queue) override { ::eventfd_write(kicks_[queue].get(), 1); }
  void Fail(Error error) override { Quit(error.message().c_str()); }

  GuestMemory memory_;
  test::GuestArena arena_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<virtio::Device> device_;
  std::vector<test::DriverQueue> drivers_;
  std::vector<virtio::Queue> queues_;
  std::vector<UniqueFd> kicks_;
  std::unique_ptr<virtio::DeviceContext> context_;
  std::thread thread_;
  UniqueFd irq_{::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
  std::counting_semaphore<> interrupt_{0};
  std::uint64_t kick_count_ = 0;
  std::atomic<std::uint64_t> interrupt_count_ = 0;
};

}  // namespace embervm::bench

#endif  // EMBERVM_BENCH_DEVICE_RIG_H_
