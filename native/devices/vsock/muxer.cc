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

Result<StreamPair> MakeStream() {
  std::array<int, 2> fds{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds.data()) != 0) {
    return std::unexpected(
        Error::FromErrno("ERR_RESOURCE_LIMIT", "socketpair", errno, "vsock stream"));
  }
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
  Result<StreamPair> stream = MakeStream();
  if (!stream.has_value()) {
    handler(std::unexpected(std::move(stream).error()));
    return;
  }
  VsockConnection& connection =
      Insert(std::make_unique<VsockConnection>(*key, std::move(stream->ours)));
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
  Result<StreamPair> stream = MakeStream();
  if (!stream.has_value()) {
    QueueReset(key, vsock::kTypeStream);
    return;
  }
  VsockConnection& connection =
      Insert(std::make_unique<VsockConnection>(key, std::move(stream->ours)));
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

std::uint32_t VsockMuxer::Send(virtio::Segments buffer) {
  if (!resets_.empty()) {
    const PendingReset reset = resets_.front();
    resets_.pop_front();
    Header header = MakeHeader(reset.key, vsock::kOpReset);
    header.type = reset.type;
    return static_cast<std::uint32_t>(virtio::CopyTo(buffer, 0, AsBytes(header)));
  }
  const std::vector<virtio::Segment> room =
      virtio::Subrange(buffer, sizeof(Header), vsock::kMaxPayload);
  while (!ready_.empty()) {
    VsockConnection& connection = *ready_.front();
    // To the back: each connection sends one packet in turn.
    ready_.splice(ready_.end(), ready_, ready_.begin());
    Header header{};
    const bool sent = NextPacket(connection, room, header);
    Update(connection);
    if (!sent) continue;
    virtio::CopyTo(buffer, 0, AsBytes(header));
    return static_cast<std::uint32_t>(sizeof(header)) + header.len;
  }
  return 0;
}

bool VsockMuxer::NextPacket(VsockConnection& connection, virtio::Segments room, Header& header) {
  const auto take = [&connection](std::uint32_t bit) {
    const bool set = (connection.pending & bit) != 0;
    connection.pending &= ~bit;
    return set;
  };
  header = MakeHeader(connection.key, 0);
  if (take(VsockConnection::kPendingRequest)) {
    header.op = vsock::kOpRequest;
  } else if (take(VsockConnection::kPendingResponse)) {
    header.op = vsock::kOpResponse;
  } else if (take(VsockConnection::kPendingShutdown)) {
    header.op = vsock::kOpShutdown;
    header.flags = connection.WantedShutdown();
    connection.sent_shutdown = header.flags;
    if (header.flags == vsock::kShutdownBoth) StartCloseTimer(connection);
  } else if (header.len = connection.ReadFromHost(room); header.len > 0) {
    header.op = vsock::kOpData;
    rx_bytes_.fetch_add(header.len, std::memory_order_relaxed);
  } else if (take(VsockConnection::kPendingCreditUpdate)) {
    header.op = vsock::kOpCreditUpdate;
  } else if (take(VsockConnection::kPendingCreditRequest)) {
    header.op = vsock::kOpCreditRequest;
  } else {
    return false;
  }
  connection.FillCredit(header);
  return true;
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
