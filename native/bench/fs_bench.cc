// 4 KiB reads of one file: as FUSE requests through a virtqueue in memory, served by the
// virtio-fs device on its own thread, against pread(2) of the same file. Prints JSON.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <semaphore>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/event_loop.h"
#include "base/unique_fd.h"
#include "devices/fs/device.h"
#include "devices/fs/protocol.h"
#include "memory/guest_memory.h"
#include "test/support/driver_queue.h"
#include "virtio/device.h"

namespace embervm::bench {
namespace {

namespace fs = devices::fs;
using Clock = std::chrono::steady_clock;

constexpr std::uint64_t kMemoryBytes = 64U << 20U;
constexpr GuestAddr kArenaBase = 0x10000;
constexpr std::uint32_t kBlock = 4096;
constexpr std::uint64_t kFileBytes = 16U << 20U;
constexpr std::size_t kInFlight = 80;
constexpr int kReads = 30000;
constexpr int kRounds = 7;
constexpr std::size_t kRequests = 1;

[[noreturn]] void Quit(const char* what) {
  std::fprintf(stderr, "%s\n", what);
  std::_Exit(1);
}

// A driver that gives a batch, notifies once, and sleeps until all of it was used.
class Driver final : private virtio::DeviceHost {
 public:
  explicit Driver(const std::string& path)
      : memory_(GuestMemory::Create(kMemoryBytes).value()),
        arena_(memory_, kArenaBase),
        loop_(EventLoop::Create().value()) {
    devices::FsOptions options;
    options.tag = "bench";
    options.path = path;
    device_ = devices::FsDevice::Open(options).value();
    for (const std::uint16_t size : device_->queue_sizes()) {
      drivers_.emplace_back(arena_, size, virtio::kRingFeatures);
      queues_.push_back(
          virtio::Queue::Create(memory_, drivers_.back().Config(size), virtio::kRingFeatures)
              .value());
    }
    context_ = std::make_unique<virtio::DeviceContext>(
        virtio::DeviceContext{.memory = memory_,
                              .loop = *loop_,
                              .host = *this,
                              .queues = queues_,
                              .features = virtio::kRingFeatures});
    if (!device_->Activate(*context_).has_value()) Quit("the device was not activated");
  }
  Driver(const Driver&) = delete;
  Driver& operator=(const Driver&) = delete;
  ~Driver() { device_->Reset(); }

  template <class In>
  [[nodiscard]] GuestAddr Put(fs::Opcode opcode, std::uint64_t node, const In& in,
                              std::string_view name = {}) {
    fs::InHeader header{};
    const std::size_t name_bytes = name.empty() ? 0 : name.size() + 1;
    header.len = static_cast<std::uint32_t>(sizeof(header) + sizeof(in) + name_bytes);
    header.opcode = static_cast<std::uint32_t>(opcode);
    header.nodeid = node;
    length_ = header.len;
    const GuestAddr addr = arena_.Allocate(length_);
    const std::span<std::byte> bytes = memory_.Slice(addr, length_).value();
    StoreLe(bytes, 0, header);
    StoreLe(bytes, sizeof(header), in);
    std::ranges::copy(std::as_bytes(std::span(name)),
                      bytes.subspan(sizeof(header) + sizeof(in)).begin());
    return addr;
  }
  template <class Out, class In>
  Out Call(fs::Opcode opcode, std::uint64_t node, const In& in, std::string_view name = {}) {
    const GuestAddr message = Put(opcode, node, in, name);
    const GuestAddr answer = arena_.Allocate(kBlock);
    Submit(message, length_, answer, kBlock);
    Wait(1);
    const std::span<const std::byte> bytes = memory_.Slice(answer, kBlock).value();
    if (LoadLe<fs::OutHeader>(bytes).error != 0) Quit("a request failed");
    return LoadLe<Out>(bytes, sizeof(fs::OutHeader));
  }
  void Submit(GuestAddr message, std::uint32_t length, GuestAddr answer, std::uint32_t room) {
    constexpr std::uint32_t kHeader = sizeof(fs::OutHeader);
    const std::array<test::DriverBuffer, 3> buffers{{{message, length, false},
                                                     {answer, kHeader, true},
                                                     {answer + kHeader, room - kHeader, true}}};
    drivers_[kRequests].Add(buffers);
  }
  // Until the answers to so many, which are all there are, have come.
  void Wait(std::size_t count) {
    used_ = static_cast<std::uint16_t>(used_ + count);
    drivers_[kRequests].SetUsedEvent(static_cast<std::uint16_t>(used_ - 1));
    // Pairs with the fence in Queue::PublishUsed.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (drivers_[kRequests].TakeKick()) device_->Notify(kRequests);
    while (count > 0) {
      if (drivers_[kRequests].PopUsed().has_value()) {
        --count;
      } else {
        interrupt_.acquire();
      }
    }
  }
  test::DriverQueue& queue() { return drivers_[kRequests]; }
  test::GuestArena& arena() { return arena_; }
  [[nodiscard]] std::uint32_t length() const { return length_; }

 private:
  void SignalQueues() override { interrupt_.release(); }
  void PublishConfig(std::span<const std::byte>) override {}
  void ShowConfig(std::span<const std::byte>) override {}
  void Kick(std::uint16_t) override { Quit("the device could not read its queue"); }
  void Fail(Error error) override { bench::Quit(error.message().c_str()); }

  GuestMemory memory_;
  test::GuestArena arena_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<devices::FsDevice> device_;
  std::vector<test::DriverQueue> drivers_;
  std::vector<virtio::Queue> queues_;
  std::unique_ptr<virtio::DeviceContext> context_;
  std::uint32_t length_ = 0;
  std::uint16_t used_ = 0;
  std::counting_semaphore<> interrupt_{0};
};

std::uint64_t OffsetOf(int read) {
  // All of the file, in no order.
  constexpr std::uint64_t kStride = 2654435761;
  return static_cast<std::uint64_t>(read) * kStride % (kFileBytes / kBlock) * kBlock;
}

double PerSecond(Clock::duration time) {
  return kReads / std::chrono::duration<double>(time).count();
}

// A request that is used again and again: its offset changes, its descriptors do not.
struct Slot {
  std::span<std::byte> message;
  std::span<std::byte> data;
  std::uint16_t head;
};

double ReadPlainly(int fd, std::span<const Slot> slots) {
  const auto begin = Clock::now();
  for (int i = 0; i < kReads; ++i) {
    void* const data = slots[static_cast<std::size_t>(i) % slots.size()].data.data();
    if (::pread(fd, data, kBlock, static_cast<off_t>(OffsetOf(i))) != kBlock) Quit("pread failed");
  }
  return PerSecond(Clock::now() - begin);
}

double ReadThroughQueue(Driver& driver, std::span<const Slot> slots) {
  const auto begin = Clock::now();
  for (int done = 0; done < kReads; done += static_cast<int>(slots.size())) {
    for (std::size_t i = 0; i < slots.size(); ++i) {
      StoreLe(slots[i].message, sizeof(fs::InHeader) + offsetof(fs::ReadIn, offset),
              OffsetOf(done + static_cast<int>(i)));
      driver.queue().MakeAvailable(slots[i].head);
    }
    driver.Wait(slots.size());
  }
  return PerSecond(Clock::now() - begin);
}

void Run(const std::string& directory) {
  const UniqueFd file(::open((directory + "/file").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  const std::vector<std::byte> content(kFileBytes, std::byte{1});
  if (::write(file.get(), content.data(), content.size()) != kFileBytes) Quit("write failed");

  Driver driver(directory);
  const GuestMemory& memory = driver.arena().memory();
  driver.Call<fs::InitOut>(
      fs::Opcode::kInit, 0,
      fs::InitIn{.major = fs::kMajor, .minor = fs::kMinor, .max_readahead = 0, .flags = 0});
  // A LOOKUP is its name and nothing before it.
  struct Nothing {
    std::array<char, 5> name;
  };
  const auto entry = driver.Call<fs::EntryOut>(fs::Opcode::kLookup, fs::kRootId,
                                               Nothing{{'f', 'i', 'l', 'e', '\0'}});
  const auto opened =
      driver.Call<fs::OpenOut>(fs::Opcode::kOpen, entry.nodeid, fs::OpenIn{O_RDONLY, 0});
  fs::ReadIn in{};
  in.handle = opened.handle;
  in.size = kBlock;
  std::vector<Slot> slots;
  for (std::uint16_t i = 0; i < kInFlight; ++i) {
    const GuestAddr message = driver.Put(fs::Opcode::kRead, entry.nodeid, in);
    const GuestAddr header = driver.arena().Allocate(sizeof(fs::OutHeader));
    const GuestAddr data = driver.arena().Allocate(kBlock, kBlock);
    // Header and argument, header of the answer, data: as Linux lays them out, nearly.
    const auto head = static_cast<std::uint16_t>(i * 3);
    const auto second = static_cast<std::uint16_t>(head + 1);
    const auto third = static_cast<std::uint16_t>(head + 2);
    constexpr std::uint16_t kAnswer = virtio::kDescWrite;
    driver.queue().SetDescriptor(
        head,
        {.addr = message, .len = driver.length(), .flags = virtio::kDescNext, .next = second});
    driver.queue().SetDescriptor(second, {.addr = header,
                                          .len = sizeof(fs::OutHeader),
                                          .flags = kAnswer | virtio::kDescNext,
                                          .next = third});
    driver.queue().SetDescriptor(third, {.addr = data, .len = kBlock, .flags = kAnswer, .next = 0});
    slots.push_back({.message = memory.Slice(message, driver.length()).value(),
                     .data = memory.Slice(data, kBlock).value(),
                     .head = head});
  }
  // In turns, so that what else the host does is in both.
  std::vector<double> plain;
  std::vector<double> queue;
  std::vector<double> ratios;
  for (int round = 0; round < kRounds; ++round) {
    plain.push_back(ReadPlainly(file.get(), slots));
    queue.push_back(ReadThroughQueue(driver, slots));
    for (const Slot& slot : slots) {
      if (!std::ranges::equal(slot.data, std::span(content).first(kBlock))) Quit("wrong data");
      std::ranges::fill(slot.data, std::byte{0});
    }
    ratios.push_back(queue.back() / plain.back());
  }
  std::ranges::sort(ratios);
  std::printf(R"({"fs_reads_per_second":%.0f,"pread_per_second":%.0f,"ratio":%.3f,)"
              R"("min":%.3f,"max":%.3f})"
              "\n",
              *std::ranges::max_element(queue), *std::ranges::max_element(plain),
              ratios[kRounds / 2], ratios.front(), ratios.back());
}

}  // namespace
}  // namespace embervm::bench

int main() {
  std::string directory =
      (std::filesystem::temp_directory_path() / "embervm-bench-XXXXXX").string();
  if (::mkdtemp(directory.data()) == nullptr) embervm::bench::Quit("mkdtemp failed");
  embervm::bench::Run(directory);
  std::error_code ignored;
  std::filesystem::remove_all(directory, ignored);
  return 0;
}
