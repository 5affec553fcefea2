// One vsock stream, each way, through the virtqueues of the device in memory, against the same
// bytes through a socketpair between two threads. The driver keeps credit and lays out its buffers
// as Linux 6.1 does: up to 64 KiB to send, all that there is before a kick; header and 4 KiB to
// receive. Prints JSON.
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <future>
#include <memory>
#include <optional>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/unique_fd.h"
#include "bench/device_rig.h"
#include "devices/vsock/device.h"
#include "devices/vsock/protocol.h"

namespace embervm::bench {
namespace {

namespace vsock = devices::vsock;
using Clock = std::chrono::steady_clock;

constexpr std::uint64_t kMemoryBytes = 64U << 20U;
constexpr std::uint64_t kStreamBytes = 64U << 20U;
constexpr std::size_t kHostChunk = 64U << 10U;
constexpr std::uint32_t kGuestReceive = 4096;
constexpr std::uint32_t kGuestBufAlloc = 1U << 20U;
constexpr std::uint64_t kGuestCid = 42;
constexpr std::uint32_t kHostPort = 5000;
constexpr std::uint32_t kGuestPort = 6000;
constexpr std::size_t kPacketBytes = sizeof(vsock::Header) + vsock::kMaxPayload;
constexpr std::byte kPattern{7};
constexpr int kRounds = 25;
constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;
constexpr double kMiBPerStream = static_cast<double>(kStreamBytes >> 20U);

double GibPerSecond(Clock::duration time) {
  return static_cast<double>(kStreamBytes) / kGiB / std::chrono::duration<double>(time).count();
}

void WriteAll(int fd) {
  const std::vector<std::byte> chunk(kHostChunk, kPattern);
  for (std::uint64_t done = 0; done < kStreamBytes;) {
    const ssize_t put = ::write(fd, chunk.data(), chunk.size());
    if (put <= 0) Quit("write failed");
    done += static_cast<std::uint64_t>(put);
  }
}

void ReadAll(int fd) {
  std::vector<std::byte> chunk(kHostChunk);
  for (std::uint64_t done = 0; done < kStreamBytes;) {
    const ssize_t got = ::read(fd, chunk.data(), chunk.size());
    if (got <= 0) Quit("read failed");
    if (chunk.front() != kPattern) Quit("wrong data");
    done += static_cast<std::uint64_t>(got);
  }
}

Clock::duration CopyThroughSocketpair() {
  std::array<int, 2> fds{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds.data()) != 0) Quit("socketpair");
  const UniqueFd left(fds[0]);
  const UniqueFd right(fds[1]);
  const auto begin = Clock::now();
  std::thread writer([&] { WriteAll(left.get()); });
  ReadAll(right.get());
  writer.join();
  return Clock::now() - begin;
}

// A guest with one stream to the host.
class Guest {
 public:
  Guest()
      : rig_(kMemoryBytes, [](EventLoop& loop) {
          return std::make_unique<devices::VsockDevice>(
              loop, devices::VsockMuxer::Options{.guest_cid = kGuestCid});
        }) {
    const std::uint16_t transmit_size = rig_.queue(vsock::kTxQueue).size();
    for (std::uint16_t i = 0; i < transmit_size; ++i) {
      free_.push_back(rig_.arena().Allocate(kPacketBytes));
      std::ranges::fill(rig_.memory().Slice(free_.back(), kPacketBytes).value(), kPattern);
    }
    sent_.resize(transmit_size);
    const std::uint16_t receive_size = rig_.queue(vsock::kRxQueue).size();
    for (std::uint16_t head = 0; head < receive_size; ++head) {
      receive_.push_back(rig_.arena().Allocate(sizeof(vsock::Header) + kGuestReceive));
      rig_.queue(vsock::kRxQueue).SetDescriptor(head, IndirectBuffer(receive_.back()));
      GiveBuffer(head);
    }
    rig_.KickIfAsked(vsock::kRxQueue);
  }

  // A blocking stream to the host.
  UniqueFd Open() {
    std::promise<UniqueFd> accepted;
    std::promise<void> listening;
    rig_.loop().Post([&] {
      static_cast<devices::VsockDevice&>(rig_.device())
          .muxer()
          .Listen(kHostPort,
                  [&](std::uint32_t, UniqueFd stream) { accepted.set_value(std::move(stream)); });
      listening.set_value();
    });
    listening.get_future().wait();
    SendPacket(vsock::kOpRequest, 0);
    UniqueFd stream = accepted.get_future().get();
    while (!open_) Turn();
    const int flags = ::fcntl(stream.get(), F_GETFL);
    if (::fcntl(stream.get(), F_SETFL, flags & ~O_NONBLOCK) != 0) Quit("fcntl failed");
    return stream;
  }

  void SendAll() {
    for (std::uint64_t left = kStreamBytes; left > 0;) {
      // No more in flight than its own buffer holds, whatever the host allows.
      const std::uint32_t window = std::min(host_buf_alloc_, kGuestBufAlloc);
      const std::uint32_t credit = window - (sent_bytes_ - host_fwd_cnt_);
      const auto length =
          static_cast<std::uint32_t>(std::min<std::uint64_t>({left, credit, vsock::kMaxPayload}));
      if (length == 0 || free_.empty()) {
        rig_.KickIfAsked(vsock::kTxQueue);
        Turn();
        continue;
      }
      AddPacket(vsock::kOpData, length);
      sent_bytes_ += length;
      left -= length;
    }
    rig_.KickIfAsked(vsock::kTxQueue);
  }
  void ReceiveAll() {
    const std::uint64_t end = received_bytes_ + kStreamBytes;
    while (received_bytes_ < end) Turn();
  }

  DeviceRig& rig() { return rig_; }

 private:
  // Takes what was used; waits where nothing was.
  void Turn() {
    bool any = false;
    while (const auto used = rig_.queue(vsock::kTxQueue).PopUsed()) {
      free_.push_back(sent_[used->id]);
      any = true;
    }
    while (const auto used = rig_.queue(vsock::kRxQueue).PopUsed()) {
      any = true;
      OnPacket(static_cast<std::uint16_t>(used->id), used->len);
    }
    rig_.KickIfAsked(vsock::kRxQueue);
    if (any) return;
    const bool more_sent = rig_.queue(vsock::kTxQueue).EnableInterrupts();
    const bool more_received = rig_.queue(vsock::kRxQueue).EnableInterrupts();
    if (!more_sent && !more_received) rig_.WaitForInterrupt();
  }
  void OnPacket(std::uint16_t head, std::uint32_t length) {
    const std::span<const std::byte> bytes = rig_.memory().Slice(receive_[head], length).value();
    const auto header = LoadLe<vsock::Header>(bytes);
    host_buf_alloc_ = header.buf_alloc;
    host_fwd_cnt_ = header.fwd_cnt;
    if (header.op == vsock::kOpResponse) open_ = true;
    if (header.op == vsock::kOpReset) Quit("the stream was reset");
    if (header.op == vsock::kOpData) {
      received_bytes_ += header.len;
      if (bytes[sizeof(header)] != kPattern) Quit("wrong data");
    }
    GiveBuffer(head);
    // As Linux does: when less than a packet of its window is left to the host.
    const std::uint32_t unannounced = static_cast<std::uint32_t>(received_bytes_) - announced_;
    if (kGuestBufAlloc - unannounced < vsock::kMaxPayload) {
      SendPacket(vsock::kOpCreditUpdate, 0);
    }
  }
  void SendPacket(std::uint16_t op, std::uint32_t length) {
    while (free_.empty()) Turn();
    AddPacket(op, length);
    rig_.KickIfAsked(vsock::kTxQueue);
  }
  void AddPacket(std::uint16_t op, std::uint32_t length) {
    const GuestAddr slot = free_.back();
    free_.pop_back();
    vsock::Header header{};
    header.src_cid = kGuestCid;
    header.dst_cid = vsock::kHostCid;
    header.src_port = kGuestPort;
    header.dst_port = kHostPort;
    header.len = length;
    header.type = vsock::kTypeStream;
    header.op = op;
    header.buf_alloc = kGuestBufAlloc;
    header.fwd_cnt = static_cast<std::uint32_t>(received_bytes_);
    announced_ = header.fwd_cnt;
    const std::span<std::byte> bytes = rig_.memory().Slice(slot, kPacketBytes).value();
    StoreLe(bytes, 0, header);
    const std::uint16_t head = rig_.queue(vsock::kTxQueue)
                                   .Add({{slot, sizeof(header), false},
                                         {slot + sizeof(header), std::max(length, 1U), false}});
    sent_[head] = slot;
  }
  // Header and payload through a table of their own, which stays as it is.
  virtio::Descriptor IndirectBuffer(GuestAddr slot) {
    const std::array<virtio::Descriptor, 2> table{{{.addr = slot,
                                                    .len = sizeof(vsock::Header),
                                                    .flags = virtio::kDescNext | virtio::kDescWrite,
                                                    .next = 1},
                                                   {.addr = slot + sizeof(vsock::Header),
                                                    .len = kGuestReceive,
                                                    .flags = virtio::kDescWrite,
                                                    .next = 0}}};
    const GuestAddr address = rig_.arena().Allocate(sizeof(table));
    StoreLe(rig_.memory().Slice(address, sizeof(table)).value(), 0, table);
    return {.addr = address, .len = sizeof(table), .flags = virtio::kDescIndirect, .next = 0};
  }
  void GiveBuffer(std::uint16_t head) { rig_.queue(vsock::kRxQueue).MakeAvailable(head); }

  DeviceRig rig_;
  std::vector<GuestAddr> free_;
  // By the head of the chain.
  std::vector<GuestAddr> sent_;
  std::vector<GuestAddr> receive_;
  bool open_ = false;
  std::uint32_t host_buf_alloc_ = 0;
  std::uint32_t host_fwd_cnt_ = 0;
  std::uint32_t sent_bytes_ = 0;
  std::uint32_t announced_ = 0;
  std::uint64_t received_bytes_ = 0;
};

Clock::duration GuestToHost(Guest& guest, int stream) {
  const auto begin = Clock::now();
  std::thread reader([stream] { ReadAll(stream); });
  guest.SendAll();
  reader.join();
  return Clock::now() - begin;
}

Clock::duration HostToGuest(Guest& guest, int stream) {
  const auto begin = Clock::now();
  std::thread writer([stream] { WriteAll(stream); });
  guest.ReceiveAll();
  writer.join();
  return Clock::now() - begin;
}

struct Figures {
  std::vector<double> values;

  double Median() {
    std::ranges::sort(values);
    return values[values.size() / 2];
  }
};

void Run() {
  Guest guest;
  const UniqueFd stream = guest.Open();
  Figures to_host;
  Figures to_guest;
  Figures both;
  Figures plain;
  Figures ratios;
  // In turns, so that what else the host does is in all.
  for (int round = 0; round < kRounds; ++round) {
    const auto copy = CopyThroughSocketpair();
    const auto out = GuestToHost(guest, stream.get());
    const auto in = HostToGuest(guest, stream.get());
    plain.values.push_back(GibPerSecond(copy));
    to_host.values.push_back(GibPerSecond(out));
    to_guest.values.push_back(GibPerSecond(in));
    both.values.push_back(2.0 / (1.0 / GibPerSecond(out) + 1.0 / GibPerSecond(in)));
    ratios.values.push_back(both.values.back() / plain.values.back());
  }
  const double mib = 2.0 * kRounds * kMiBPerStream;
  const double kicks = static_cast<double>(guest.rig().kicks()) / mib;
  const double interrupts = static_cast<double>(guest.rig().interrupts()) / mib;
  const double ratio = ratios.Median();
  std::printf(R"({"gib_per_second":%.2f,"to_host":%.2f,"to_guest":%.2f,"socketpair":%.2f,)"
              R"("ratio":%.3f,"min":%.3f,"max":%.3f,"kicks_per_mib":%.2f,)"
              R"("interrupts_per_mib":%.2f})"
              "\n",
              both.Median(), to_host.Median(), to_guest.Median(), plain.Median(), ratio,
              ratios.values.front(), ratios.values.back(), kicks, interrupts);
}

}  // namespace
}  // namespace embervm::bench

int main() {
  embervm::bench::Run();
  return 0;
}
