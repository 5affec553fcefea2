#include "devices/vsock/muxer.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "base/bytes.h"

namespace embervm::devices {

using vsock::Header;

namespace {

// Ports of our own connections go round in this range, as Firecracker's do.
constexpr std::uint32_t kFirstHostPort = 1U << 30;
constexpr std::uint32_t kLastHostPort = (1U << 31) - 1;
// More than one for each connection; beyond that a guest talks to itself.
constexpr std::size_t kMaxPendingResets = 2048;
// What the guest may hold of the host's memory is bounded: so many streams have a wide window.
constexpr std::size_t kWideStreams = 64;
// Credit rides on packets of data: by itself it is sent only when there are none.
constexpr std::uint32_t kBeforeData = VsockConnection::kPendingRequest |
                                      VsockConnection::kPendingResponse |
                                      VsockConnection::kPendingShutdown;

Error RefusedError(std::uint32_t port, std::string_view reason) {
  return Error("ERR_VSOCK_REFUSED", "vsock connection to guest port " + std::to_string(port) +
                                        " refused: " + std::string(reason))
      .With("port", port);
}

Error ResetError(std::uint32_t port) {
  return Error("ERR_VSOCK_RESET", "vsock connection to guest port " + std::to_string(port) +
                                      " was reset before it was established")
      .With("port", port);
}

struct StreamPair {
  UniqueFd ours;
  UniqueFd theirs;
};

// Room for a whole window in the socket itself: what does not fit is copied once more.
void WidenSendBuffer(int fd, std::uint32_t window) {
  const int bytes = static_cast<int>(window);
  // The first is for the privileged, and goes beyond the host's limit; neither is needed to work.
  if (::setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes)) != 0) {
    ::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
  }
}

Result<StreamPair> MakeStream(std::uint32_t window) {
  std::array<int, 2> fds{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds.data()) != 0) {
    return std::unexpected(
        Error::FromErrno("ERR_RESOURCE_LIMIT", "socketpair", errno, "vsock stream"));
  }
  for (const int fd : fds) WidenSendBuffer(fd, window);
  return StreamPair{.ours = UniqueFd(fds[0]), .theirs = UniqueFd(fds[1])};
}

// Closing a socket with unread bytes is an error for its other end; after an orderly
// close by the guest the host shall see an end of file instead.
void DiscardInput(int fd) {
  ::shutdown(fd, SHUT_RD);  // From here on the other end adds nothing.
  constexpr std::size_t kSinkBytes = 16384;
  std::array<std::byte, kSinkBytes> sink;
  while (::recv(fd, sink.data(), sink.size(), MSG_DONTWAIT) > 0) {
  }
}

}  // namespace

std::size_t VsockMuxer::KeyHash::operator()(const VsockKey& key) const noexcept {
  constexpr unsigned kHalf = 32;
  constexpr std::uint64_t kMix = 0x9e37'79b9'7f4a'7c15;
  const std::uint64_t mixed = ((std::uint64_t{key.host_port} << kHalf) | key.guest_port) * kMix;
  return mixed ^ (mixed >> kHalf);
}

VsockMuxer::VsockMuxer(EventLoop& loop, const Options& options, std::function<void()> on_output)
    : loop_(loop),
      options_(options),
      on_output_(std::move(on_output)),
      next_host_port_(kFirstHostPort) {}

VsockMuxer::~VsockMuxer() {
  active_ = false;
  DropAll();
  for (const Drain& drain : drains_) loop_.RemoveFd(drain.fd.get());
}

VsockMuxer::Counters VsockMuxer::counters() const {
  return {.connections = open_count_.load(std::memory_order_relaxed),
          .tx_bytes = tx_bytes_.load(std::memory_order_relaxed),
          .rx_bytes = rx_bytes_.load(std::memory_order_relaxed)};
}

VsockConnection* VsockMuxer::Find(const VsockKey& key) {
  const auto found = connections_.find(key);
  return found != connections_.end() ? found->second.get() : nullptr;
}

VsockConnection& VsockMuxer::Insert(std::unique_ptr<VsockConnection> connection) {
  VsockConnection& inserted = *connection;
  connections_.emplace(inserted.key, std::move(connection));
  open_count_.store(connections_.size(), std::memory_order_relaxed);
  return inserted;
}

std::optional<VsockKey> VsockMuxer::AllocateKey(std::uint32_t guest_port) {
  if (open_streams() >= options_.max_connections) return std::nullopt;
  // Ends: the range is far larger than the number of connections.
  for (;;) {
    const VsockKey key{.host_port = next_host_port_, .guest_port = guest_port};
    next_host_port_ = next_host_port_ == kLastHostPort ? kFirstHostPort : next_host_port_ + 1;
    if (!connections_.contains(key) && !listeners_.contains(key.host_port)) return key;
  }
}

void VsockMuxer::Connect(std::uint32_t guest_port, ConnectHandler handler) {
  if (!active_) {
    handler(
        std::unexpected(RefusedError(guest_port, "the guest's vsock driver is not running (yet)")));
    return;
  }
  const std::optional<VsockKey> key = AllocateKey(guest_port);
  if (!key) {
    handler(std::unexpected(
        Error("ERR_VSOCK_LIMIT", "the machine has as many vsock connections as it may have")
            .With("limit", static_cast<std::int64_t>(options_.max_connections))));
    return;
  }
  const std::uint32_t window = WidestOfNext();
  Result<StreamPair> stream = MakeStream(window);
  if (!stream.has_value()) {
    handler(std::unexpected(std::move(stream).error()));
    return;
  }
  VsockConnection& connection =
      Insert(std::make_unique<VsockConnection>(*key, std::move(stream->ours), window));
  connection.caller_end = std::move(stream->theirs);
  connection.connect_handler = std::move(handler);
  connection.pending = VsockConnection::kPendingRequest;
  connection.timer =
      loop_.AddTimer(options_.connect_timeout, [this, key = *key] { OnTimeout(key); });
  Update(connection);
  on_output_();
}

void VsockMuxer::Listen(std::uint32_t host_port, ListenHandler handler) {
  listeners_.insert_or_assign(host_port, std::move(handler));
}

void VsockMuxer::Unlisten(std::uint32_t host_port) { listeners_.erase(host_port); }

void VsockMuxer::Receive(const Header& header, virtio::Segments payload) {
  // Only the host and this guest are on this bus.
  if (header.dst_cid != vsock::kHostCid || header.src_cid != options_.guest_cid) return;
  const VsockKey key{.host_port = header.dst_port, .guest_port = header.src_port};
  VsockConnection* const connection = header.type == vsock::kTypeStream ? Find(key) : nullptr;
  if (connection != nullptr) {
    Dispatch(*connection, header, payload);
  } else if (header.type == vsock::kTypeStream && header.op == vsock::kOpRequest) {
    Accept(key, header);
  } else if (header.op != vsock::kOpReset) {
    QueueReset(key, header.type);
  }
}

void VsockMuxer::ReceiveInvalid(const Header& header) {
  Header reset = header;
  reset.op = 0;  // No such operation: ends the connection, or answers with RST.
  Receive(reset, {});
}

void VsockMuxer::Accept(const VsockKey& key, const Header& header) {
  const auto listener = listeners_.find(key.host_port);
  if (listener == listeners_.end() || open_streams() >= options_.max_connections) {
    QueueReset(key, vsock::kTypeStream);
    return;
  }
  const std::uint32_t window = WidestOfNext();
  Result<StreamPair> stream = MakeStream(window);
  if (!stream.has_value()) {
    QueueReset(key, vsock::kTypeStream);
    return;
  }
  VsockConnection& connection =
      Insert(std::make_unique<VsockConnection>(key, std::move(stream->ours), window));
  connection.UpdatePeerCredit(header);
  connection.established = true;
  connection.pending = VsockConnection::kPendingResponse;
  // A copy: the handler may replace or remove itself.
  const ListenHandler handler = listener->second;
  Update(connection);
  handler(key.guest_port, std::move(stream->theirs));
}

void VsockMuxer::Dispatch(VsockConnection& connection, const Header& header,
                          virtio::Segments payload) {
  connection.UpdatePeerCredit(header);
  switch (header.op) {
    case vsock::kOpResponse:
      if (connection.established) break;
      OnResponse(connection);
      return;
    case vsock::kOpReset:
      Close(connection, Ending::kPeerReset);
      return;
    case vsock::kOpShutdown:
      if (!connection.established) break;
      OnShutdown(connection, header.flags);
      return;
    case vsock::kOpData:
      if (!connection.established || (connection.peer_shutdown & vsock::kShutdownSend) != 0) break;
      OnData(connection, header.len, payload);
      return;
    case vsock::kOpCreditUpdate:
      Update(connection);
      return;
    case vsock::kOpCreditRequest:
      connection.pending |= VsockConnection::kPendingCreditUpdate;
      Update(connection);
      return;
    default:
      break;
  }
  // An operation that does not exist, or not now.
  Close(connection, Ending::kReset);
}

void VsockMuxer::OnResponse(VsockConnection& connection) {
  connection.established = true;
  if (connection.timer) loop_.CancelTimer(*connection.timer);
  connection.timer.reset();
  ConnectHandler handler = std::move(connection.connect_handler);
  UniqueFd caller_end = std::move(connection.caller_end);
  Update(connection);
  handler(std::move(caller_end));
}

void VsockMuxer::OnData(VsockConnection& connection, std::uint32_t length,
                        virtio::Segments payload) {
  // Counted first: whoever has read the bytes finds them counted.
  tx_bytes_.fetch_add(length, std::memory_order_relaxed);
  // An empty packet says nothing but its credit.
  if (length > 0 && !connection.Deliver(length, payload)) {
    Close(connection, Ending::kReset);
    return;
  }
  Update(connection);
}

void VsockMuxer::OnShutdown(VsockConnection& connection, std::uint32_t flags) {
  connection.peer_shutdown |= flags & vsock::kShutdownBoth;
  if ((connection.peer_shutdown & vsock::kShutdownReceive) != 0) {
    ::shutdown(connection.fd.get(), SHUT_RD);
  }
  if (connection.peer_shutdown == vsock::kShutdownBoth) {
    Close(connection, Ending::kOrderly);
  } else {
    Update(connection);
  }
}

void VsockMuxer::OnFdEvents(VsockConnection& connection, std::uint32_t events) {
  const bool hangup = (events & (EPOLLHUP | EPOLLERR)) != 0;
  if (!connection.to_host.empty()) connection.FlushToHost();
  if (connection.MayRead()) {
    // Bytes may be left even after a hang-up: reading comes first.
    if (hangup || (events & EPOLLIN) != 0) connection.readable = true;
  } else if (hangup) {
    connection.MarkHostGone();
  }
  Update(connection);
  on_output_();
}

void VsockMuxer::OnTimeout(VsockKey key) {
  VsockConnection* const connection = Find(key);
  if (connection == nullptr) return;
  connection->timer.reset();
  if (connection->connect_handler) {
    ConnectHandler handler = std::exchange(connection->connect_handler, nullptr);
    Close(*connection, Ending::kReset);
    handler(std::unexpected(
        Error("ERR_VSOCK_TIMEOUT", "the guest did not answer a vsock connection to port " +
                                       std::to_string(key.guest_port))
            .With("port", key.guest_port)));
  } else {
    Close(*connection, Ending::kReset);
  }
  on_output_();
}

void VsockMuxer::Update(VsockConnection& connection) {
  if (connection.established) {
    const bool guest_done = (connection.peer_shutdown & vsock::kShutdownSend) != 0;
    if (guest_done && connection.to_host.empty() && !connection.write_closed) {
      connection.write_closed = true;
      ::shutdown(connection.fd.get(), SHUT_WR);
    }
    if ((connection.WantedShutdown() & ~connection.sent_shutdown) != 0) {
      connection.pending |= VsockConnection::kPendingShutdown;
    }
    if (!UpdateInterest(connection)) {
      Close(connection, Ending::kReset);
      return;
    }
  }
  UpdateReady(connection);
}

bool VsockMuxer::UpdateInterest(VsockConnection& connection) {
  std::uint32_t events = 0;
  if (connection.MayRead() && !connection.readable) events |= EPOLLIN;
  if (!connection.to_host.empty()) events |= EPOLLOUT;
  // A hang-up is reported whether asked for or not. Where nothing is to be read any more
  // it is the only way to learn of it; elsewhere it would spin until the guest gives
  // credit, so the descriptor is not watched then.
  const bool watch_hangup =
      !connection.host_gone &&
      (connection.host_eof || (connection.peer_shutdown & vsock::kShutdownReceive) != 0);
  std::optional<std::uint32_t> wanted;
  if (events != 0 || watch_hangup) wanted = events;
  if (wanted == connection.watched_events) return true;

  const int fd = connection.fd.get();
  Result<> changed;
  if (!wanted) {
    loop_.RemoveFd(fd);
  } else if (connection.watched_events) {
    changed = loop_.ModifyFd(fd, *wanted);
  } else {
    changed = loop_.AddFd(
        fd, *wanted, [this, &connection](std::uint32_t ready) { OnFdEvents(connection, ready); });
  }
  if (changed.has_value()) connection.watched_events = wanted;
  return changed.has_value();
}

void VsockMuxer::UpdateReady(VsockConnection& connection) {
  const bool wants = connection.WantsToSend();
  if (wants == connection.ready_position.has_value()) return;
  if (wants) {
    connection.ready_position = ready_.insert(ready_.end(), &connection);
  } else {
    ready_.erase(*connection.ready_position);
    connection.ready_position.reset();
  }
}

std::uint32_t VsockMuxer::PayloadBytes() const {
  // One packet each where several wait: the guest's buffers may be few.
  if (!resets_.empty() || ready_.size() != 1) return 0;
  const VsockConnection& next = *ready_.front();
  return (next.pending & kBeforeData) == 0 ? next.ReadableBytes() : 0;
}

std::size_t VsockMuxer::Send(std::span<const virtio::Segments> buffers,
                             std::span<std::uint32_t> lengths) {
  const auto send_header = [&](const Header& header) {
    lengths[0] = static_cast<std::uint32_t>(virtio::CopyTo(buffers[0], 0, AsBytes(header)));
    return std::size_t{1};
  };
  if (!resets_.empty()) {
    const PendingReset reset = resets_.front();
    resets_.pop_front();
    Header header = MakeHeader(reset.key, vsock::kOpReset);
    header.type = reset.type;
    return send_header(header);
  }
  while (!ready_.empty()) {
    VsockConnection& connection = *ready_.front();
    // To the back: each connection has its turn.
    ready_.splice(ready_.end(), ready_, ready_.begin());
    std::size_t sent = 0;
    if (const std::optional<Header> first = NextControl(connection, kBeforeData)) {
      sent = send_header(*first);
    } else if (sent = SendData(connection, buffers, lengths); sent == 0) {
      const std::optional<Header> last = NextControl(connection, ~kBeforeData);
      if (last) sent = send_header(*last);
    }
    Update(connection);
    if (sent > 0) return sent;
  }
  return 0;
}

std::optional<Header> VsockMuxer::NextControl(VsockConnection& connection, std::uint32_t which) {
  const auto take = [&connection, which](std::uint32_t bit) {
    const bool set = (connection.pending & which & bit) != 0;
    if (set) connection.pending &= ~bit;
    return set;
  };
  Header header = MakeHeader(connection.key, 0);
  if (take(VsockConnection::kPendingRequest)) {
    header.op = vsock::kOpRequest;
  } else if (take(VsockConnection::kPendingResponse)) {
    header.op = vsock::kOpResponse;
  } else if (take(VsockConnection::kPendingShutdown)) {
    header.op = vsock::kOpShutdown;
    header.flags = connection.WantedShutdown();
    connection.sent_shutdown = header.flags;
    if (header.flags == vsock::kShutdownBoth) StartCloseTimer(connection);
  } else if (take(VsockConnection::kPendingCreditUpdate)) {
    header.op = vsock::kOpCreditUpdate;
  } else if (take(VsockConnection::kPendingCreditRequest)) {
    header.op = vsock::kOpCreditRequest;
  } else {
    return std::nullopt;
  }
  connection.FillCredit(header);
  return header;
}

std::size_t VsockMuxer::SendData(VsockConnection& connection,
                                 std::span<const virtio::Segments> buffers,
                                 std::span<std::uint32_t> lengths) {
  // All of them in one read: a guest's buffers are small, and a call for each would cost more
  // than what it copies.
  room_.clear();
  for (const virtio::Segments buffer : buffers) {
    const std::vector<virtio::Segment> part =
        virtio::Subrange(buffer, sizeof(Header), vsock::kMaxPayload);
    room_.insert(room_.end(), part.begin(), part.end());
  }
  std::uint32_t left = connection.ReadFromHost(room_);
  rx_bytes_.fetch_add(left, std::memory_order_relaxed);
  std::size_t sent = 0;
  for (; left > 0; ++sent) {
    const auto room = static_cast<std::uint32_t>(std::min<std::uint64_t>(
        virtio::TotalBytes(buffers[sent]) - sizeof(Header), vsock::kMaxPayload));
    Header header = MakeHeader(connection.key, vsock::kOpData);
    header.len = std::min(left, room);
    connection.FillCredit(header);
    virtio::CopyTo(buffers[sent], 0, AsBytes(header));
    lengths[sent] = static_cast<std::uint32_t>(sizeof(header)) + header.len;
    left -= header.len;
  }
  return sent;
}

void VsockMuxer::StartCloseTimer(VsockConnection& connection) {
  if (connection.timer) return;
  connection.timer =
      loop_.AddTimer(options_.close_timeout, [this, key = connection.key] { OnTimeout(key); });
}

void VsockMuxer::Close(VsockConnection& connection, Ending ending) {
  const VsockKey key = connection.key;
  Unlink(connection);
  auto node = connections_.extract(key);
  open_count_.store(connections_.size(), std::memory_order_relaxed);
  if (ending != Ending::kPeerReset) QueueReset(key, vsock::kTypeStream);
  Finish(std::move(node.mapped()), ending,
         ending == Ending::kPeerReset ? RefusedError(key.guest_port, "nobody listens there")
                                      : ResetError(key.guest_port));
}

void VsockMuxer::Unlink(VsockConnection& connection) {
  if (connection.watched_events) loop_.RemoveFd(connection.fd.get());
  connection.watched_events.reset();
  if (connection.timer) loop_.CancelTimer(*connection.timer);
  connection.timer.reset();
  if (connection.ready_position) ready_.erase(*connection.ready_position);
  connection.ready_position.reset();
}

void VsockMuxer::Finish(std::unique_ptr<VsockConnection> connection, Ending ending, Error error) {
  ConnectHandler handler = std::move(connection->connect_handler);
  if (connection->established) {
    // After both shutdowns an RST is how a guest says goodbye, too.
    const bool orderly =
        ending == Ending::kOrderly ||
        (ending == Ending::kPeerReset && connection->sent_shutdown == vsock::kShutdownBoth);
    if (orderly) DiscardInput(connection->fd.get());
    if (!connection->to_host.empty()) {
      StartDrain(std::move(connection->fd), std::move(connection->to_host));
    }
  }
  connection.reset();
  if (handler) handler(std::unexpected(std::move(error)));
}

void VsockMuxer::DropAll() {
  resets_.clear();
  auto dropped = std::exchange(connections_, {});
  open_count_.store(0, std::memory_order_relaxed);
  for (auto& [key, connection] : dropped) Unlink(*connection);
  for (auto& [key, connection] : dropped) {
    Finish(std::move(connection), Ending::kReset, ResetError(key.guest_port));
  }
}

void VsockMuxer::QueueReset(const VsockKey& key, std::uint16_t type) {
  if (resets_.size() < kMaxPendingResets) resets_.push_back({.key = key, .type = type});
}

void VsockMuxer::StartDrain(UniqueFd fd, ByteBuffer bytes) {
  const auto drain = drains_.insert(drains_.end(), Drain{std::move(fd), std::move(bytes)});
  const Result<> watched = loop_.AddFd(drain->fd.get(), EPOLLOUT, [this, drain](std::uint32_t) {
    if (SendBuffered(drain->fd.get(), drain->bytes) && !drain->bytes.empty()) return;
    loop_.RemoveFd(drain->fd.get());
    drains_.erase(drain);
  });
  if (!watched.has_value()) drains_.erase(drain);
}

std::uint32_t VsockMuxer::WidestOfNext() const {
  return open_streams() < kWideStreams ? VsockConnection::kWideWindow
                                       : VsockConnection::kNarrowWindow;
}

Header VsockMuxer::MakeHeader(const VsockKey& key, std::uint16_t op) const {
  Header header{};
  header.src_cid = vsock::kHostCid;
  header.dst_cid = options_.guest_cid;
  header.src_port = key.host_port;
  header.dst_port = key.guest_port;
  header.type = vsock::kTypeStream;
  header.op = op;
  return header;
}

}  // namespace embervm::devices
