// TerminalRelay: moves bytes between a terminal of the host and a raw stream of
// the guest, on a thread of its own. While it runs the terminal is in raw mode;
// however it ends, the mode is restored before the end is told.
//
// Each direction has one bounded buffer, so a side that does not read holds up the
// other. The detach keys are looked for in what is typed.
#ifndef EMBERVM_PTY_RELAY_H_
#define EMBERVM_PTY_RELAY_H_

#include <functional>
#include <memory>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "base/thread.h"
#include "base/unique_fd.h"
#include "pty/detach_keys.h"
#include "pty/host_terminal.h"

namespace embervm::pty {

enum class RelayEnd {
  // The guest ended the stream, and the terminal has what it sent.
  kStreamEnded,
  kDetached,
  // The terminal was closed or failed.
  kTerminalGone,
  kStopped,
};

class TerminalRelay {
 public:
  // Called once, on the relay's thread, as the last thing it does.
  using Done = std::move_only_function<void(RelayEnd)>;

  // Enters raw mode and begins. `stream` is a socket.
  static Result<std::unique_ptr<TerminalRelay>> Start(std::unique_ptr<HostTerminal> terminal,
                                                      UniqueFd stream, DetachKeys detach_keys,
                                                      Done done);
  TerminalRelay(const TerminalRelay&) = delete;
  TerminalRelay& operator=(const TerminalRelay&) = delete;
  // Stops, and waits until the mode is restored.
  ~TerminalRelay();

  // Any thread.
  void Stop() const;
  [[nodiscard]] Result<TerminalSize> Size() const { return terminal_->Size(); }

 private:
  struct Events;

  TerminalRelay(std::unique_ptr<HostTerminal> terminal, UniqueFd stream, UniqueFd wake,
                DetachKeys detach_keys, Done done);

  void Run();
  RelayEnd Pump();
  [[nodiscard]] Events Wait();
  // Each returns false when its descriptor is of no more use.
  bool ReadInput(bool& detached);
  bool ReadStream();
  bool WriteStream();
  bool WriteOutput();
  void NoteHangUp();
  [[nodiscard]] bool OutputIsStuck() const;

  std::unique_ptr<HostTerminal> terminal_;
  UniqueFd stream_;
  UniqueFd wake_;
  DetachKeys detach_keys_;
  Done done_;

  // The relay's thread only.
  std::vector<std::byte> to_guest_;
  std::vector<std::byte> to_terminal_;
  bool stream_ended_ = false;
  // The guest sends no more than what has arrived.
  bool stream_hung_ = false;
  // The stream takes no more, but may still have something to give.
  bool stream_deaf_ = false;
  std::int64_t output_progress_ns_ = 0;

  Thread thread_;
};

}  // namespace embervm::pty

#endif  // EMBERVM_PTY_RELAY_H_
