// VsockMuxer: the host side of all vsock streams of one guest. Each stream is an
// AF_UNIX socketpair: one end goes to the caller, the other stays here. Knows packets
// but no rings. Everything but counters() belongs to the loop thread.
#ifndef EMBERVM_DEVICES_VSOCK_MUXER_H_
#define EMBERVM_DEVICES_VSOCK_MUXER_H_

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/event_loop.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "devices/vsock/byte_buffer.h"
#include "devices/vsock/connection.h"
#include "devices/vsock/protocol.h"
#include "virtio/segments.h"

namespace embervm::devices {

class VsockMuxer {
 public:
  struct Options {
    std::uint64_t guest_cid = 3;
    // Generous: a guest kernel that is emulated takes its time.
    EventLoop::Clock::duration connect_timeout = std::chrono::seconds(10);
    // From our SHUTDOWN of both directions to the guest's RST.
    EventLoop::Clock::duration close_timeout = std::chrono::seconds(10);
    std::size_t max_connections = 1023;
  };
  struct Counters {
    std::uint64_t connections = 0;  // Open now.
    std::uint64_t tx_bytes = 0;     // Guest to host.
    std::uint64_t rx_bytes = 0;     // Host to guest.
  };
  // The stream is non-blocking and the receiver's to close.
  using ConnectHandler = std::move_only_function<void(Result<UniqueFd>)>;
  using ListenHandler = std::function<void(std::uint32_t guest_port, UniqueFd stream)>;

  // `on_output` is called when packets for the guest came up outside of Receive().
  VsockMuxer(EventLoop& loop, const Options& options, std::function<void()> on_output);
  VsockMuxer(const VsockMuxer&) = delete;
  VsockMuxer& operator=(const VsockMuxer&) = delete;
  ~VsockMuxer();

  // Connects to a port in the guest. The handler is called once, on the loop thread,
  // perhaps during the call. Errors: ERR_VSOCK_REFUSED (nobody listens, or the guest has
  // no vsock driver yet), ERR_VSOCK_TIMEOUT, ERR_VSOCK_RESET (the device went away
  // meanwhile), ERR_VSOCK_LIMIT.
  void Connect(std::uint32_t guest_port, ConnectHandler handler);
  // Accepts connections of the guest to a port of the host; replaces an earlier handler.
  void Listen(std::uint32_t host_port, ListenHandler handler);
  // Connections that are open stay open.
  void Unlisten(std::uint32_t host_port);

  // Whether a driver is there.
  void SetActive(bool active) { active_ = active; }
  // Ends every connection without a word to the guest. What the guest had sent before
  // still reaches the host's readers.
  void DropAll();

  // A packet from the guest. `payload` has header.len bytes for kOpData.
  void Receive(const vsock::Header& header, virtio::Segments payload);
  // A packet from the guest whose length field is wrong.
  void ReceiveInvalid(const vsock::Header& header);

  [[nodiscard]] bool HasOutput() const { return !resets_.empty() || !ready_.empty(); }
  // How much payload the next call of Send() has for the guest, as far as is known.
  [[nodiscard]] std::uint32_t PayloadBytes() const;
  // Writes the next packets for the guest, of one stream, into `buffers`, one into each;
  // each has room for more than a header. Sets the lengths and returns the number of
  // packets; 0 when there was nothing to send after all.
  [[nodiscard]] std::size_t Send(std::span<const virtio::Segments> buffers,
                                 std::span<std::uint32_t> lengths);

  [[nodiscard]] Counters counters() const;

 private:
  struct KeyHash {
    std::size_t operator()(const VsockKey& key) const noexcept;
  };
  struct PendingReset {
    VsockKey key;
    std::uint16_t type;
  };
  // Bytes of a guest that has closed already, waiting for a slow reader on the host.
  struct Drain {
    UniqueFd fd;
    ByteBuffer bytes;
  };
  // How a connection ends: with an RST to the guest or without, and whether the host may
  // see bytes that it wrote in vain as an error.
  enum class Ending { kOrderly, kReset, kPeerReset };

  VsockConnection* Find(const VsockKey& key);
  VsockConnection& Insert(std::unique_ptr<VsockConnection> connection);
  [[nodiscard]] std::optional<VsockKey> AllocateKey(std::uint32_t guest_port);
  void Accept(const VsockKey& key, const vsock::Header& header);
  // A packet of a known connection; may remove it.
  void Dispatch(VsockConnection& connection, const vsock::Header& header, virtio::Segments payload);
  void OnResponse(VsockConnection& connection);
  void OnData(VsockConnection& connection, std::uint32_t length, virtio::Segments payload);
  void OnShutdown(VsockConnection& connection, std::uint32_t flags);
  void OnFdEvents(VsockConnection& connection, std::uint32_t events);
  void OnTimeout(VsockKey key);

  // Brings shutdowns, the ready list and the epoll interest up to date after any change
  // of the connection; may remove it.
  void Update(VsockConnection& connection);
  // False when the host cannot watch one more descriptor.
  bool UpdateInterest(VsockConnection& connection);
  void UpdateReady(VsockConnection& connection);
  // The connection's next packet without data, of those pending bits of it that are in `which`.
  [[nodiscard]] std::optional<vsock::Header> NextControl(VsockConnection& connection,
                                                         std::uint32_t which);
  // Packets of data, one into each buffer. Returns their number.
  std::size_t SendData(VsockConnection& connection, std::span<const virtio::Segments> buffers,
                       std::span<std::uint32_t> lengths);
  void StartCloseTimer(VsockConnection& connection);

  void Close(VsockConnection& connection, Ending ending);
  // Takes it off the loop, the timers and the ready list.
  void Unlink(VsockConnection& connection);
  // Ends one that is in no list any more: streams and handler.
  void Finish(std::unique_ptr<VsockConnection> connection, Ending ending, Error error);
  void QueueReset(const VsockKey& key, std::uint16_t type);
  void StartDrain(UniqueFd fd, ByteBuffer bytes);
  [[nodiscard]] vsock::Header MakeHeader(const VsockKey& key, std::uint16_t op) const;
  // What the window of a connection that is made now may grow to: many share less memory each.
  [[nodiscard]] std::uint32_t WidestOfNext() const;
  [[nodiscard]] std::size_t open_streams() const { return connections_.size() + drains_.size(); }

  EventLoop& loop_;
  const Options options_;
  const std::function<void()> on_output_;
  bool active_ = false;
  std::uint32_t next_host_port_;

  std::unordered_map<VsockKey, std::unique_ptr<VsockConnection>, KeyHash> connections_;
  std::unordered_map<std::uint32_t, ListenHandler> listeners_;
  // Connections with something to send to the guest, served round robin.
  std::list<VsockConnection*> ready_;
  std::deque<PendingReset> resets_;
  std::list<Drain> drains_;
  // Of SendData(), kept for its memory.
  std::vector<virtio::Segment> room_;

  // Written by the loop thread, read by any; relaxed, as each counts for itself.
  std::atomic<std::uint64_t> open_count_ = 0;
  std::atomic<std::uint64_t> tx_bytes_ = 0;
  std::atomic<std::uint64_t> rx_bytes_ = 0;
};

}  // namespace embervm::devices

#endif  // EMBERVM_DEVICES_VSOCK_MUXER_H_
