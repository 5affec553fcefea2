// VsockGuest: the guest's side of virtio-vsock: packets through real rings, and streams
// with credit as a guest kernel keeps it. One thread uses it.
#ifndef EMBERVM_TEST_SUPPORT_VSOCK_GUEST_H_
#define EMBERVM_TEST_SUPPORT_VSOCK_GUEST_H_

#include <algorithm>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "base/bytes.h"
#include "devices/vsock/device.h"
#include "devices/vsock/protocol.h"
#include "test/support/driver.h"

namespace embervm::test {

namespace vsock = devices::vsock;

struct VsockPacket {
  vsock::Header header{};
  std::vector<std::byte> payload;
};

class VsockGuest {
 public:
  static constexpr std::uint64_t kCid = 42;
  static constexpr std::uint32_t kBufAlloc = 256 * 1024;
  static constexpr std::uint32_t kMaxChunk = 4096;

  VsockGuest(devices::VsockDevice& device, LoopThread& thread) : driver_(device, thread) {
    Start();
  }

  Driver& driver() { return driver_; }

  // Resets the device and starts anew, with receive buffers unless told otherwise.
  void Start(bool with_buffers = true) {
    driver_.Start();
    free_tx_.clear();
    rx_slots_.clear();
    tx_slots_.clear();
    for (unsigned i = 0; i < driver_.queue(vsock::kTxQueue).size(); ++i) {
      free_tx_.push_back(driver_.arena().Allocate(sizeof(vsock::Header) + kMaxChunk));
    }
    if (!with_buffers) return;
    GiveBuffers(driver_.queue(vsock::kRxQueue).size());
  }
  // Header and payload in descriptors of their own, as Linux 6.1 does.
  void GiveBuffers(unsigned count) {
    for (unsigned i = 0; i < count; ++i) {
      GiveBuffer(driver_.arena().Allocate(sizeof(vsock::Header) + kMaxChunk));
    }
    driver_.KickIfAsked(vsock::kRxQueue);
  }

  static vsock::Header MakeHeader(std::uint16_t op, std::uint32_t guest_port,
                                  std::uint32_t host_port) {
    vsock::Header header{};
    header.src_cid = kCid;
    header.dst_cid = vsock::kHostCid;
    header.src_port = guest_port;
    header.dst_port = host_port;
    header.type = vsock::kTypeStream;
    header.op = op;
    header.buf_alloc = kBufAlloc;
    return header;
  }

  // Sends a packet whose length field tells the truth.
  void Send(vsock::Header header, std::span<const std::byte> payload = {}) {
    header.len = static_cast<std::uint32_t>(payload.size());
    SendRaw(header, payload);
  }
  void SendRaw(const vsock::Header& header, std::span<const std::byte> payload = {}) {
    while (!CanSend()) {
      REQUIRE(
          Eventually([this] { return driver_.queue(vsock::kTxQueue).used_index() != seen_tx_; }));
    }
    GuestAddr slot = free_tx_.front();
    free_tx_.pop_front();
    if (payload.size() > kMaxChunk) {
      slot = driver_.arena().Allocate(sizeof(header) + payload.size());
    }
    REQUIRE(driver_.memory().Write(slot, AsBytes(header)).has_value());
    REQUIRE(driver_.memory().Write(slot + sizeof(header), payload).has_value());
    const auto length = static_cast<std::uint32_t>(sizeof(header) + payload.size());
    const std::uint16_t head = driver_.queue(vsock::kTxQueue).Add({{slot, length, false}});
    tx_slots_[head] = slot;
    driver_.KickIfAsked(vsock::kTxQueue);
  }
  // Whether a transmit buffer is free; takes used ones back.
  bool CanSend() {
    while (const auto used = driver_.queue(vsock::kTxQueue).PopUsed()) {
      ++seen_tx_;
      CHECK(used->len == 0);
      free_tx_.push_back(tx_slots_.at(used->id));
    }
    return !free_tx_.empty();
  }

  // The next packet of the host, if one is there.
  std::optional<VsockPacket> Poll() {
    const auto used = driver_.queue(vsock::kRxQueue).PopUsed();
    if (!used) return std::nullopt;
    const GuestAddr slot = rx_slots_.at(used->id);
    VsockPacket packet;
    REQUIRE(used->len >= sizeof(packet.header));
    REQUIRE(driver_.memory()
                .Read(slot, std::as_writable_bytes(std::span<vsock::Header, 1>(&packet.header, 1)))
                .has_value());
    REQUIRE(used->len == sizeof(packet.header) + packet.header.len);
    CHECK(+packet.header.src_cid == vsock::kHostCid);
    CHECK(+packet.header.dst_cid == kCid);
    packet.payload = driver_.Get(slot + sizeof(packet.header), packet.header.len);
    if (refill_) {
      GiveBuffer(slot);
      driver_.KickIfAsked(vsock::kRxQueue);
    }
    return packet;
  }
  VsockPacket Receive() {
    std::optional<VsockPacket> packet;
    REQUIRE(Eventually([&] {
      packet = Poll();
      return packet.has_value();
    }));
    return *packet;
  }
  // The next packet, which must be this operation.
  VsockPacket Expect(std::uint16_t op) {
    VsockPacket packet = Receive();
    REQUIRE(+packet.header.op == op);
    return packet;
  }
  // As Expect(), past the credit that comes whenever the host has taken some bytes.
  VsockPacket ExpectAfterCredit(std::uint16_t op) {
    VsockPacket packet = Receive();
    while (packet.header.op == vsock::kOpCreditUpdate) packet = Receive();
    REQUIRE(+packet.header.op == op);
    return packet;
  }
  // Nothing comes for a while.
  [[nodiscard]] bool Quiet() {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    return !Poll().has_value();
  }
  void set_refill(bool refill) { refill_ = refill; }

 private:
  void GiveBuffer(GuestAddr slot) {
    const std::array<DriverBuffer, 2> buffers{
        DriverBuffer{slot, sizeof(vsock::Header), true},
        DriverBuffer{slot + sizeof(vsock::Header), kMaxChunk, true}};
    const std::uint16_t head = driver_.queue(vsock::kRxQueue).AddIndirect(buffers);
    rx_slots_[head] = slot;
  }

  Driver driver_;
  std::deque<GuestAddr> free_tx_;
  std::map<std::uint32_t, GuestAddr> tx_slots_;
  std::map<std::uint32_t, GuestAddr> rx_slots_;
  std::uint16_t seen_tx_ = 0;
  bool refill_ = true;
};

// One stream as the guest's kernel sees it: echoes credit as data is read.
class VsockGuestStream {
 public:
  VsockGuestStream(VsockGuest& guest, std::uint32_t guest_port, std::uint32_t host_port,
                   std::uint32_t buf_alloc = VsockGuest::kBufAlloc)
      : guest_(guest), guest_port_(guest_port), host_port_(host_port), buf_alloc_(buf_alloc) {}

  // A packet of the host for this stream.
  void OnPacket(const VsockPacket& packet) {
    peer_buf_alloc_ = packet.header.buf_alloc;
    peer_fwd_cnt_ = packet.header.fwd_cnt;
    switch (packet.header.op) {
      case vsock::kOpData:
        // The host keeps within our credit.
        REQUIRE(received_ + packet.header.len - announced_ <= buf_alloc_);
        received_ += packet.header.len;
        input.insert(input.end(), packet.payload.begin(), packet.payload.end());
        if (received_ - announced_ > buf_alloc_ / 2) Send(vsock::kOpCreditUpdate);
        break;
      case vsock::kOpShutdown:
        shutdown |= packet.header.flags;
        break;
      case vsock::kOpReset:
        reset = true;
        break;
      case vsock::kOpCreditRequest:
        Send(vsock::kOpCreditUpdate);
        break;
      default:
        break;
    }
  }
  // Sends as much of the rest as credit and buffers allow; returns what it took.
  std::size_t SendSome(std::span<const std::byte> rest) {
    // No more in flight than its own buffer holds, as later kernels of 6.1 have it.
    const std::uint32_t free = std::min(peer_buf_alloc_, buf_alloc_) - (sent_ - peer_fwd_cnt_);
    const std::size_t chunk =
        std::min({rest.size(), std::size_t{free}, std::size_t{VsockGuest::kMaxChunk}});
    if (chunk == 0 || !guest_.CanSend()) return 0;
    sent_ += static_cast<std::uint32_t>(chunk);
    Send(vsock::kOpData, 0, rest.first(chunk));
    return chunk;
  }
  void Send(std::uint16_t op, std::uint32_t flags = 0, std::span<const std::byte> payload = {}) {
    vsock::Header header = VsockGuest::MakeHeader(op, guest_port_, host_port_);
    header.buf_alloc = buf_alloc_;
    header.flags = flags;
    header.fwd_cnt = received_;
    announced_ = received_;
    guest_.Send(header, payload);
  }

  [[nodiscard]] std::uint32_t guest_port() const { return guest_port_; }
  [[nodiscard]] std::uint32_t host_port() const { return host_port_; }
  // What the host allows to be in flight.
  [[nodiscard]] std::uint32_t peer_buf_alloc() const { return peer_buf_alloc_; }

  std::vector<std::byte> input;
  std::uint32_t shutdown = 0;
  bool reset = false;

 private:
  VsockGuest& guest_;
  std::uint32_t guest_port_;
  std::uint32_t host_port_;
  std::uint32_t buf_alloc_;
  std::uint32_t peer_buf_alloc_ = 0;
  std::uint32_t peer_fwd_cnt_ = 0;
  std::uint32_t sent_ = 0;
  std::uint32_t received_ = 0;
  std::uint32_t announced_ = 0;
};

}  // namespace embervm::test

#endif  // EMBERVM_TEST_SUPPORT_VSOCK_GUEST_H_
