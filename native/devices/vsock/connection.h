// VsockConnection: the state of one stream: credit both ways (virtio 1.2 §5.10.6.3),
// half-closes, and the socket towards the host. No packets are built and nothing is
// scheduled here; that is the VsockMuxer's part.
#ifndef EMBERVM_DEVICES_VSOCK_CONNECTION_H_
#define EMBERVM_DEVICES_VSOCK_CONNECTION_H_

#include <cstdint>
#include <functional>
#include <list>
#include <optional>

#include "base/event_loop.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "devices/vsock/byte_buffer.h"
#include "devices/vsock/protocol.h"
#include "virtio/segments.h"

namespace embervm::devices {

struct VsockKey {
  std::uint32_t host_port;
  std::uint32_t guest_port;
  bool operator==(const VsockKey&) const = default;
};

// Writes what is buffered as far as the socket takes it. False when nobody reads it
// any more.
[[nodiscard]] bool SendBuffered(int fd, ByteBuffer& bytes);

class VsockConnection {
 public:
  // What the guest may send before the host has read it; also the bound of the buffer
  // between the two. It grows to the guest's own receive buffer, as a Linux guest keeps
  // no more in flight than that one holds, whatever we allow.
  static constexpr std::uint32_t kNarrowWindow = 256 * 1024;
  static constexpr std::uint32_t kWideWindow = 1024 * 1024;

  // Control packets that wait for a receive buffer, one bit each.
  enum Pending : std::uint32_t {
    kPendingRequest = 1,
    kPendingResponse = 2,
    kPendingShutdown = 4,
    kPendingCreditUpdate = 8,
    kPendingCreditRequest = 16,
  };

  // The window is never wider than `max_window`.
  VsockConnection(VsockKey stream_key, UniqueFd stream, std::uint32_t max_window)
      : key(stream_key), fd(std::move(stream)), max_window_(max_window) {}

  // Credit that the guest gives: called for each of its packets.
  void UpdatePeerCredit(const vsock::Header& header);
  [[nodiscard]] std::uint32_t PeerFree() const;
  // Takes the credit of our own packet fields: what the guest knows from now on.
  void FillCredit(vsock::Header& header);

  // Guest to host. False when the guest sent more than its credit.
  [[nodiscard]] bool Deliver(std::uint32_t length, virtio::Segments payload);
  // Writes what is buffered as far as the host takes it.
  void FlushToHost();
  // Nobody reads on the host any more: what is buffered is moot.
  void MarkHostGone();

  // Host to guest: reads at most what there is credit for into the segments. 0 when
  // there is nothing now; end of file and errors are noted in host_eof.
  std::uint32_t ReadFromHost(virtio::Segments room);
  // How much of it there is now, as far as there is credit.
  [[nodiscard]] std::uint32_t ReadableBytes() const;

  // The SHUTDOWN flags that hold by now.
  [[nodiscard]] std::uint32_t WantedShutdown() const;
  // There is, as far as we know, something for the guest.
  [[nodiscard]] bool WantsToSend() const;
  [[nodiscard]] bool MayRead() const;

  const VsockKey key;
  UniqueFd fd;
  bool established = false;
  std::uint32_t pending = 0;
  std::uint32_t peer_shutdown = 0;  // Flags of the guest's SHUTDOWN packets so far.
  std::uint32_t sent_shutdown = 0;  // Flags of ours.
  bool readable = false;            // The socket may hold bytes for the guest.
  bool host_eof = false;            // The host sends nothing more.
  bool host_gone = false;           // The host takes nothing more.
  bool write_closed = false;        // The host knows that the guest sends nothing more.
  ByteBuffer to_host;

  // Bookkeeping of the muxer.
  std::optional<std::list<VsockConnection*>::iterator> ready_position;
  std::optional<std::uint32_t> watched_events;
  std::optional<EventLoop::TimerId> timer;
  UniqueFd caller_end;  // Of a connection of ours that the guest has not accepted yet.
  std::move_only_function<void(Result<UniqueFd>)> connect_handler;

 private:
  void NoteForwarded(std::uint32_t bytes);

  const std::uint32_t max_window_;
  std::uint32_t window_ = kNarrowWindow;
  std::uint32_t announced_window_ = kNarrowWindow;  // What the guest knows of it.
  // All counters wrap at 32 bits, as the protocol has it.
  std::uint32_t peer_buf_alloc_ = 0;
  std::uint32_t peer_fwd_cnt_ = 0;
  std::uint32_t sent_to_guest_ = 0;
  std::uint32_t received_from_guest_ = 0;
  std::uint32_t forwarded_ = 0;
  std::uint32_t announced_forwarded_ = 0;
};

}  // namespace embervm::devices

#endif  // EMBERVM_DEVICES_VSOCK_CONNECTION_H_
