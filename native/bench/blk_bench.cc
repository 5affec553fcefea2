// 4 KiB random reads of one file: as virtio-blk requests through a virtqueue in memory, served by
// the device's one thread, against preadv(2) by one thread. Prints JSON.
#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/unique_fd.h"
#include "bench/device_rig.h"
#include "devices/block/device.h"
#include "devices/block/protocol.h"

namespace embervm::bench {
namespace {

namespace block = devices::block;
using Clock = std::chrono::steady_clock;

constexpr std::uint64_t kMemoryBytes = 64U << 20U;
constexpr std::uint32_t kBlock = 4096;
constexpr std::uint64_t kFileBytes = 16U << 20U;
constexpr std::uint16_t kInFlight = 64;
constexpr int kReads = 64 * 200;
constexpr int kRounds = 61;

std::uint64_t OffsetOf(int read) {
  // All of the file, in no order.
  constexpr std::uint64_t kStride = 2654435761;
  return static_cast<std::uint64_t>(read) * kStride % (kFileBytes / kBlock) * kBlock;
}

// Each block begins with its own offset.
void CheckBlock(std::span<const std::byte> data, int read) {
  if (LoadLe<std::uint64_t>(data) != OffsetOf(read)) Quit("wrong data");
}

double PerSecond(Clock::duration time) {
  return kReads / std::chrono::duration<double>(time).count();
}

// A request that is used again and again: its sector changes, its descriptors do not.
struct Slot {
  std::span<std::byte> header;
  std::span<std::byte> data;
  std::span<std::byte> status;
};

double ReadPlainly(int fd, std::span<const Slot> slots) {
  const auto begin = Clock::now();
  for (int i = 0; i < kReads; ++i) {
    const std::span<std::byte> data = slots[static_cast<std::size_t>(i) % slots.size()].data;
    const iovec part{.iov_base = data.data(), .iov_len = data.size()};
    if (::preadv(fd, &part, 1, static_cast<off_t>(OffsetOf(i))) != kBlock) Quit("preadv failed");
    CheckBlock(data, i);
  }
  return PerSecond(Clock::now() - begin);
}

// Half of what is in flight is asked for while the other half is at work.
class Reader {
 public:
  Reader(DeviceRig& rig, std::span<const Slot> slots) : rig_(rig), slots_(slots) {}

  double Read() {
    const auto begin = Clock::now();
    int asked = 0;
    int done = 0;
    std::vector<int> reads(slots_.size());
    std::vector<std::uint16_t> free;
    for (std::uint16_t i = 0; i < slots_.size(); ++i) free.push_back(i);
    while (done < kReads) {
      while (!free.empty() && asked < kReads) {
        const std::uint16_t slot = free.back();
        free.pop_back();
        reads[slot] = asked;
        Ask(slot, OffsetOf(asked));
        ++asked;
      }
      rig_.KickIfAsked(0);
      const std::size_t before = free.size();
      while (const auto used = rig_.queue(0).PopUsed()) {
        const auto slot = static_cast<std::uint16_t>(used->id / kDescriptors);
        if (slots_[slot].status[0] != std::byte{0}) Quit("a request failed");
        CheckBlock(slots_[slot].data, reads[slot]);
        free.push_back(slot);
        ++done;
      }
      if (free.size() == before) Wait(std::min<int>(kInFlight / 2, asked - done));
    }
    return PerSecond(Clock::now() - begin);
  }

  static constexpr std::uint16_t kDescriptors = 3;

 private:
  void Ask(std::uint16_t slot, std::uint64_t offset) {
    StoreLe(slots_[slot].header, 0,
            block::RequestHeader{
                .type = block::kTypeIn, .reserved = 0, .sector = offset / block::kSectorSize});
    slots_[slot].status[0] = std::byte{0xff};
    rig_.queue(0).MakeAvailable(static_cast<std::uint16_t>(slot * kDescriptors));
    ++asked_;
  }
  // Until so many of what was asked for are there.
  void Wait(int count) {
    test::DriverQueue& queue = rig_.queue(0);
    const auto event = static_cast<std::uint16_t>(queue.next_used() + count - 1);
    queue.SetUsedEvent(event);
    // Pairs with the fence in Queue::PublishUsed.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    const auto gone = static_cast<std::uint16_t>(queue.used_index() - event);
    if (gone == 0 || gone > UINT16_MAX / 2) rig_.WaitForInterrupt();
  }

  DeviceRig& rig_;
  std::span<const Slot> slots_;
  std::uint64_t asked_ = 0;
};

std::vector<Slot> MakeSlots(DeviceRig& rig) {
  std::vector<Slot> slots;
  for (std::uint16_t i = 0; i < kInFlight; ++i) {
    const GuestAddr header = rig.arena().Allocate(sizeof(block::RequestHeader));
    const GuestAddr data = rig.arena().Allocate(kBlock, kBlock);
    const GuestAddr status = rig.arena().Allocate(1);
    const auto head = static_cast<std::uint16_t>(i * Reader::kDescriptors);
    const auto second = static_cast<std::uint16_t>(head + 1);
    const auto third = static_cast<std::uint16_t>(head + 2);
    constexpr std::uint16_t kAnswer = virtio::kDescWrite;
    rig.queue(0).SetDescriptor(head, {.addr = header,
                                      .len = sizeof(block::RequestHeader),
                                      .flags = virtio::kDescNext,
                                      .next = second});
    rig.queue(0).SetDescriptor(
        second, {.addr = data, .len = kBlock, .flags = kAnswer | virtio::kDescNext, .next = third});
    rig.queue(0).SetDescriptor(third, {.addr = status, .len = 1, .flags = kAnswer, .next = 0});
    slots.push_back({.header = rig.memory().Slice(header, sizeof(block::RequestHeader)).value(),
                     .data = rig.memory().Slice(data, kBlock).value(),
                     .status = rig.memory().Slice(status, 1).value()});
  }
  return slots;
}

void Run(const std::string& directory) {
  const std::string path = directory + "/disk";
  const UniqueFd file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  std::vector<std::byte> content(kFileBytes);
  for (std::uint64_t at = 0; at < kFileBytes; at += kBlock) StoreLe(std::span(content), at, at);
  if (::write(file.get(), content.data(), content.size()) != kFileBytes) Quit("write failed");

  DeviceRig rig(kMemoryBytes, [&path](EventLoop&) {
    return devices::BlockDevice::Open({.id = "bench", .path = path, .read_only = true}).value();
  });
  const std::vector<Slot> slots = MakeSlots(rig);
  Reader reader(rig, slots);
  // In turns, so that what else the host does is in both.
  std::vector<double> plain;
  std::vector<double> queue;
  std::vector<double> ratios;
  for (int round = 0; round < kRounds; ++round) {
    plain.push_back(ReadPlainly(file.get(), slots));
    queue.push_back(reader.Read());
    ratios.push_back(queue.back() / plain.back());
  }
  std::ranges::sort(ratios);
  std::printf(R"({"reads_per_second":%.0f,"preadv_per_second":%.0f,"ratio":%.3f,)"
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
