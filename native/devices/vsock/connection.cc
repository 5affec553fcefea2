#include "devices/vsock/connection.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <climits>

namespace embervm::devices {

namespace {

// Returns the bytes taken; -1 with errno set as sendmsg(2) does.
ssize_t SendSome(int fd, virtio::Segments segments) {
  for (;;) {
    msghdr message{};
    // sendmsg does not write through the list; the type just has no const.
    message.msg_iov = const_cast<iovec*>(segments.data());
    message.msg_iovlen = std::min<std::size_t>(segments.size(), IOV_MAX);
    // MSG_NOSIGNAL: a reader that has gone must not raise SIGPIPE in our process.
    const ssize_t sent = ::sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0 || errno != EINTR) return sent;
  }
}

bool WouldBlock(int error) { return error == EAGAIN || error == EWOULDBLOCK; }

}  // namespace

bool SendBuffered(int fd, ByteBuffer& bytes) {
  while (!bytes.empty()) {
    const std::span<const std::byte> rest = bytes.bytes();
    const virtio::Segment segment{.iov_base = const_cast<std::byte*>(rest.data()),
                                  .iov_len = rest.size()};
    const ssize_t sent = SendSome(fd, virtio::Segments(&segment, 1));
    if (sent < 0) return WouldBlock(errno);
    bytes.Consume(static_cast<std::size_t>(sent));
  }
  return true;
}

void VsockConnection::UpdatePeerCredit(const vsock::Header& header) {
  peer_buf_alloc_ = header.buf_alloc;
  peer_fwd_cnt_ = header.fwd_cnt;
  // Only ever wider: what was announced stays allowed.
  window_ = std::clamp(peer_buf_alloc_, window_, std::max(window_, max_window_));
}

std::uint32_t VsockConnection::PeerFree() const {
  // A guest that claims to have read what was never sent makes this huge: no credit.
  const std::uint32_t in_flight = sent_to_guest_ - peer_fwd_cnt_;
  return in_flight < peer_buf_alloc_ ? peer_buf_alloc_ - in_flight : 0;
}

void VsockConnection::FillCredit(vsock::Header& header) {
  header.buf_alloc = announced_window_ = window_;
  header.fwd_cnt = forwarded_;
  announced_forwarded_ = forwarded_;
  pending &= ~static_cast<std::uint32_t>(kPendingCreditUpdate);
}

bool VsockConnection::Deliver(std::uint32_t length, virtio::Segments payload) {
  // Measured against what the guest was told, not against what is free by now.
  const std::uint32_t outstanding = received_from_guest_ - announced_forwarded_;
  if (length > announced_window_ || outstanding > announced_window_ - length) return false;
  received_from_guest_ += length;

  std::uint32_t taken = 0;
  if (host_gone) {
    taken = length;
  } else if (to_host.empty()) {
    const ssize_t sent = SendSome(fd.get(), payload);
    if (sent >= 0) {
      taken = static_cast<std::uint32_t>(sent);
    } else if (!WouldBlock(errno)) {
      MarkHostGone();
      taken = length;
    }
  }
  if (taken < length) to_host.Append(payload, taken, length - taken);
  NoteForwarded(taken);
  return true;
}

void VsockConnection::FlushToHost() {
  const std::size_t before = to_host.size();
  const bool has_reader = SendBuffered(fd.get(), to_host);
  NoteForwarded(static_cast<std::uint32_t>(before - to_host.size()));
  if (!has_reader) MarkHostGone();
}

void VsockConnection::MarkHostGone() {
  host_gone = true;
  const std::size_t dropped = to_host.size();
  to_host = {};
  NoteForwarded(static_cast<std::uint32_t>(dropped));
}

void VsockConnection::NoteForwarded(std::uint32_t bytes) {
  forwarded_ += bytes;
  const std::uint32_t unannounced = forwarded_ - announced_forwarded_;
  // Early enough that a guest which keeps sending never waits for us, rarely enough
  // that an update, with its interrupt, comes once in a quarter of what it uses of the
  // window: no more than its own receive buffer has.
  const std::uint32_t usable = std::min(announced_window_, peer_buf_alloc_);
  const std::uint32_t in_flight = received_from_guest_ - announced_forwarded_;
  if (unannounced >= usable / 4 && in_flight > usable / 2) {
    pending |= kPendingCreditUpdate;
  }
}

std::uint32_t VsockConnection::ReadFromHost(virtio::Segments room) {
  if (!readable || !MayRead()) return 0;
  const std::vector<virtio::Segment> part = virtio::Subrange(room, 0, PeerFree());
  ssize_t got = 0;
  do {
    const int count = static_cast<int>(std::min<std::size_t>(part.size(), IOV_MAX));
    got = ::readv(fd.get(), part.data(), count);
  } while (got < 0 && errno == EINTR);
  if (got > 0) {
    sent_to_guest_ += static_cast<std::uint32_t>(got);
    // Tell the guest that we wait, once: it answers when it has read something.
    if (PeerFree() == 0) pending |= kPendingCreditRequest;
    return static_cast<std::uint32_t>(got);
  }
  readable = false;
  // A reset stream has ended as well; which of the two it was has no place in vsock.
  if (got == 0 || !WouldBlock(errno)) {
    host_eof = true;
    // Closed, not only shut down: then one SHUTDOWN packet can say both.
    pollfd state{.fd = fd.get(), .events = 0, .revents = 0};
    if (::poll(&state, 1, 0) == 1 && (state.revents & POLLHUP) != 0) MarkHostGone();
  }
  return 0;
}

std::uint32_t VsockConnection::ReadableBytes() const {
  int bytes = 0;
  if (!readable || !MayRead() || ::ioctl(fd.get(), FIONREAD, &bytes) != 0) return 0;
  return std::min(PeerFree(), static_cast<std::uint32_t>(bytes));
}

std::uint32_t VsockConnection::WantedShutdown() const {
  return (host_eof ? vsock::kShutdownSend : 0) | (host_gone ? vsock::kShutdownReceive : 0);
}

bool VsockConnection::MayRead() const {
  return established && !host_eof && (peer_shutdown & vsock::kShutdownReceive) == 0 &&
         PeerFree() > 0;
}

bool VsockConnection::WantsToSend() const { return pending != 0 || (readable && MayRead()); }

}  // namespace embervm::devices
