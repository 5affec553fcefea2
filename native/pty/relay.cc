#include "pty/relay.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <utility>

namespace embervm::pty {

namespace {

constexpr std::size_t kBufferBytes = 64UZ * 1024;
constexpr std::size_t kTypedBytes = 4096;
// After the end of the stream a terminal that takes nothing for this long (output
// stopped by Ctrl-S) no longer keeps its mode from being restored.
constexpr std::int64_t kStuckNs = 2'000'000'000;
constexpr int kStuckPollMs = 250;

bool WouldBlock(int error) { return error == EAGAIN || error == EWOULDBLOCK || error == EINTR; }

void DropFront(std::vector<std::byte>& bytes, std::size_t count) {
  bytes.erase(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(count));
}

}  // namespace

struct TerminalRelay::Events {
  short wake = 0;
  short stream = 0;
  short input = 0;
  short output = 0;
};

Result<std::unique_ptr<TerminalRelay>> TerminalRelay::Start(std::unique_ptr<HostTerminal> terminal,
                                                            UniqueFd stream, DetachKeys detach_keys,
                                                            Done done) {
  UniqueFd wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake.valid()) {
    return std::unexpected(
        Error::FromErrno("ERR_RESOURCE_LIMIT", "eventfd", errno, "relay a terminal"));
  }
  EMBERVM_TRY(terminal->EnterRaw());
  std::unique_ptr<TerminalRelay> relay(new TerminalRelay(std::move(terminal), std::move(stream),
                                                         std::move(wake), std::move(detach_keys),
                                                         std::move(done)));
  EMBERVM_TRY_ASSIGN(relay->thread_,
                     Thread::Start("embervm-pty", [self = relay.get()] { self->Run(); }));
  return relay;
}

TerminalRelay::TerminalRelay(std::unique_ptr<HostTerminal> terminal, UniqueFd stream, UniqueFd wake,
                             DetachKeys detach_keys, Done done)
    : terminal_(std::move(terminal)),
      stream_(std::move(stream)),
      wake_(std::move(wake)),
      detach_keys_(std::move(detach_keys)),
      done_(std::move(done)) {
  to_guest_.reserve(kBufferBytes);
  to_terminal_.reserve(kBufferBytes);
}

TerminalRelay::~TerminalRelay() {
  Stop();
  thread_.Join();
}

void TerminalRelay::Stop() const {
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(wake_.get(), &one, sizeof(one));
}

void TerminalRelay::Run() {
  const RelayEnd end = Pump();
  terminal_->Restore();
  stream_.Reset();
  done_(end);
}

bool TerminalRelay::OutputIsStuck() const {
  return stream_hung_ && !to_terminal_.empty() && MonotonicNs() - output_progress_ns_ > kStuckNs;
}

void TerminalRelay::NoteHangUp() {
  if (std::exchange(stream_hung_, true)) return;
  output_progress_ns_ = MonotonicNs();
}

RelayEnd TerminalRelay::Pump() {
  for (;;) {
    if ((stream_ended_ && to_terminal_.empty()) || OutputIsStuck()) return RelayEnd::kStreamEnded;
    const Events events = Wait();
    if (events.wake != 0) return RelayEnd::kStopped;

    if ((events.input & POLLIN) != 0) {
      bool detached = false;
      const bool alive = ReadInput(detached);
      // What was typed before the keys, or before the end, is meant for the guest.
      if (!WriteStream()) stream_deaf_ = true;
      if (detached) return RelayEnd::kDetached;
      if (!alive) return RelayEnd::kTerminalGone;
    } else if ((events.input & (POLLHUP | POLLERR | POLLNVAL)) != 0) {
      return RelayEnd::kTerminalGone;
    }
    if ((events.stream & POLLOUT) != 0 && !WriteStream()) stream_deaf_ = true;
    if ((events.stream & (POLLRDHUP | POLLHUP | POLLERR)) != 0) NoteHangUp();
    if ((events.stream & (POLLIN | POLLHUP | POLLERR)) != 0 && !ReadStream()) {
      stream_ended_ = true;
      NoteHangUp();
    }
    if (!to_terminal_.empty() && !WriteOutput()) return RelayEnd::kTerminalGone;
  }
}

TerminalRelay::Events TerminalRelay::Wait() {
  short stream = 0;
  if (to_terminal_.empty()) stream |= POLLIN;
  if (!to_guest_.empty() && !stream_deaf_) stream |= POLLOUT;
  if (!stream_hung_) stream |= POLLRDHUP;
  const bool full = to_guest_.size() + detach_keys_.held() + kTypedBytes > kBufferBytes;
  const short input = full && !stream_deaf_ ? 0 : POLLIN;
  const short output = to_terminal_.empty() ? 0 : POLLOUT;
  // A descriptor that waits for nothing is left out: its hang-up would be reported
  // again and again. The input's ends the relay.
  std::array<pollfd, 4> fds{
      pollfd{.fd = wake_.get(), .events = POLLIN, .revents = 0},
      pollfd{
          .fd = stream != 0 && !stream_ended_ ? stream_.get() : -1, .events = stream, .revents = 0},
      pollfd{.fd = terminal_->input(), .events = input, .revents = 0},
      pollfd{.fd = output != 0 ? terminal_->output() : -1, .events = output, .revents = 0},
  };
  // Without a signal to interrupt it and with valid arguments, poll() cannot fail
  // but for memory; then nothing is ready, and it is asked again.
  if (::poll(fds.data(), fds.size(), stream_hung_ ? kStuckPollMs : -1) < 0) return {};
  return {.wake = fds[0].revents,
          .stream = fds[1].revents,
          .input = fds[2].revents,
          .output = fds[3].revents};
}

bool TerminalRelay::ReadInput(bool& detached) {
  std::array<std::byte, kTypedBytes> typed;
  const ssize_t got = ::read(terminal_->input(), typed.data(), typed.size());
  if (got < 0) return WouldBlock(errno);
  if (got == 0) return false;
  detached = detach_keys_.Filter(std::span(typed).first(static_cast<std::size_t>(got)), to_guest_);
  // A guest that takes no more must not keep the keys from being seen.
  if (stream_deaf_) to_guest_.clear();
  return true;
}

bool TerminalRelay::ReadStream() {
  if (!to_terminal_.empty()) return true;
  to_terminal_.resize(kBufferBytes);
  const ssize_t got = ::recv(stream_.get(), to_terminal_.data(), kBufferBytes, MSG_DONTWAIT);
  const int error = errno;
  to_terminal_.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
  // A reset is an end like any other: why the guest went is told elsewhere.
  return got > 0 || (got < 0 && WouldBlock(error));
}

bool TerminalRelay::WriteStream() {
  while (!to_guest_.empty() && !stream_deaf_) {
    const ssize_t sent =
        ::send(stream_.get(), to_guest_.data(), to_guest_.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0 && WouldBlock(errno)) return true;
    if (sent < 0) {
      to_guest_.clear();
      return false;
    }
    DropFront(to_guest_, static_cast<std::size_t>(sent));
  }
  return true;
}

bool TerminalRelay::WriteOutput() {
  const ssize_t written = ::write(terminal_->output(), to_terminal_.data(), to_terminal_.size());
  if (written < 0) return WouldBlock(errno);
  if (written > 0) output_progress_ns_ = MonotonicNs();
  DropFront(to_terminal_, static_cast<std::size_t>(written));
  return true;
}

}  // namespace embervm::pty
