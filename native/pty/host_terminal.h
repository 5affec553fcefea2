// HostTerminal: a terminal of the host that a relay may use. It switches the mode
// to raw and back, and does so on descriptors of its own where it can: O_NONBLOCK
// belongs to the open file, which the caller shares with the shell that started it.
#ifndef EMBERVM_PTY_HOST_TERMINAL_H_
#define EMBERVM_PTY_HOST_TERMINAL_H_

#include <sys/types.h>
#include <termios.h>

#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace embervm::pty {

struct TerminalSize {
  unsigned rows = 0;
  unsigned cols = 0;
};

class HostTerminal {
 public:
  // The descriptors stay the caller's. One HostTerminal at a time may have a
  // terminal, or two would restore each other's raw mode.
  static Result<std::unique_ptr<HostTerminal>> Open(int input, int output);
  HostTerminal(const HostTerminal&) = delete;
  HostTerminal& operator=(const HostTerminal&) = delete;
  ~HostTerminal();

  // Every key reaches the reader as it is, and output is not touched.
  Result<> EnterRaw();
  // Back to the mode before EnterRaw(). Idempotent.
  void Restore();

  [[nodiscard]] Result<TerminalSize> Size() const;
  [[nodiscard]] int input() const { return input_.fd.get(); }
  [[nodiscard]] int output() const { return output_.fd.get(); }

 private:
  struct Side {
    UniqueFd fd;
    dev_t device = 0;
    std::optional<termios> saved;
  };

  HostTerminal() = default;
  static Result<Side> OpenSide(int fd, int access, std::string_view which);
  static Result<> EnterRaw(Side& side);

  Side input_;
  // The same terminal as a rule; then only the input's mode is changed.
  Side output_;
  std::vector<dev_t> claimed_;
};

}  // namespace embervm::pty

#endif  // EMBERVM_PTY_HOST_TERMINAL_H_
