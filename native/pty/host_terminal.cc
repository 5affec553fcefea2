#include "pty/host_terminal.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <mutex>
#include <set>
#include <string>

namespace embervm::pty {

namespace {

// The terminals that are in use, by device number, in all environments of this
// process.
std::mutex claims_mutex;
std::set<dev_t>& Claims() {
  static std::set<dev_t> claims;
  return claims;
}

bool Claim(dev_t device) {
  const std::lock_guard lock(claims_mutex);
  return Claims().insert(device).second;
}

void Release(dev_t device) {
  const std::lock_guard lock(claims_mutex);
  Claims().erase(device);
}

Error NotATerminal(std::string_view which, std::string_view why) {
  std::string message = "the " + std::string(which) + " " + std::string(why);
  return Error("ERR_NOT_A_TERMINAL", std::move(message)).With("which", std::string(which));
}

}  // namespace

Result<HostTerminal::Side> HostTerminal::OpenSide(int fd, int access, std::string_view which) {
  termios mode{};
  struct stat status{};
  if (::tcgetattr(fd, &mode) != 0 || ::fstat(fd, &status) != 0) {
    if (errno == ENOTTY || errno == EINVAL) {
      return std::unexpected(NotATerminal(which, "is not a terminal"));
    }
    return std::unexpected(Error::FromErrno("ERR_TERMINAL", "tcgetattr", errno, which));
  }
  unsigned number = 0;
  if (::ioctl(fd, TIOCGPTN, &number) == 0) {
    // Opening that again would make another pseudo-terminal.
    return std::unexpected(
        NotATerminal(which, "is the controlling side of a pseudo-terminal, not the terminal"));
  }
  Side side{.fd = {}, .device = status.st_rdev, .saved = {}};
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  side.fd.Reset(::open(path.c_str(), access | O_NOCTTY | O_NONBLOCK | O_CLOEXEC));
  // A terminal of another user (after su) cannot be opened again: there a write may
  // wait until the terminal takes it.
  if (!side.fd.valid()) side.fd.Reset(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (!side.fd.valid()) {
    return std::unexpected(Error::FromErrno("ERR_RESOURCE_LIMIT", "fcntl", errno, which));
  }
  return side;
}

Result<std::unique_ptr<HostTerminal>> HostTerminal::Open(int input, int output) {
  std::unique_ptr<HostTerminal> terminal(new HostTerminal());
  EMBERVM_TRY_ASSIGN(terminal->input_, OpenSide(input, O_RDONLY, "input"));
  EMBERVM_TRY_ASSIGN(terminal->output_, OpenSide(output, O_WRONLY, "output"));
  for (const dev_t device : std::set{terminal->input_.device, terminal->output_.device}) {
    if (!Claim(device)) {
      return std::unexpected(
          Error("ERR_TERMINAL", "the terminal is attached to another program already"));
    }
    terminal->claimed_.push_back(device);
  }
  return terminal;
}

HostTerminal::~HostTerminal() {
  Restore();
  for (const dev_t device : claimed_) Release(device);
}

Result<> HostTerminal::EnterRaw(Side& side) {
  // -1 for a terminal that does not control our session: nobody else's job then.
  const pid_t foreground = ::tcgetpgrp(side.fd.get());
  if (foreground > 0 && foreground != ::getpgrp()) {
    return std::unexpected(
        Error("ERR_TERMINAL", "this process is in the background of its terminal"));
  }
  termios mode{};
  if (::tcgetattr(side.fd.get(), &mode) != 0) {
    return std::unexpected(Error::FromErrno("ERR_TERMINAL", "tcgetattr", errno, "read the mode"));
  }
  const termios before = mode;
  ::cfmakeraw(&mode);
  // Not TCSAFLUSH: what was typed ahead is for the guest.
  if (::tcsetattr(side.fd.get(), TCSANOW, &mode) != 0) {
    return std::unexpected(Error::FromErrno("ERR_TERMINAL", "tcsetattr", errno, "set raw mode"));
  }
  side.saved = before;
  return {};
}

Result<> HostTerminal::EnterRaw() {
  EMBERVM_TRY(EnterRaw(input_));
  if (output_.device == input_.device) return {};
  if (auto entered = EnterRaw(output_); !entered.has_value()) {
    Restore();
    return entered;
  }
  return {};
}

void HostTerminal::Restore() {
  for (Side* const side : std::array{&input_, &output_}) {
    // Of a terminal that has gone there is no mode.
    if (side->saved.has_value()) ::tcsetattr(side->fd.get(), TCSANOW, &*side->saved);
    side->saved.reset();
  }
}

Result<TerminalSize> HostTerminal::Size() const {
  winsize size{};
  if (::ioctl(output_.fd.get(), TIOCGWINSZ, &size) != 0) {
    return std::unexpected(Error::FromErrno("ERR_TERMINAL", "ioctl", errno, "read the size"));
  }
  return TerminalSize{.rows = size.ws_row, .cols = size.ws_col};
}

}  // namespace embervm::pty
