// Runs the agent's modules (all but main.c) in a child process, on Unix sockets in
// the place of vsock. The child ends cleanly, so that the leak checker has its say.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <functional>
#include <string>

namespace embervm::agent_test {

class AgentProcess {
 public:
  // Serves `root` as the workload's root, dials and listens.
  explicit AgentProcess(const char* root = "/");
  // PID 1 of new namespaces, without a root. `prepare` runs there first, as in an initramfs.
  explicit AgentProcess(const std::function<bool()>& prepare);
  // Expects a clean end.
  ~AgentProcess();
  AgentProcess(const AgentProcess&) = delete;
  AgentProcess& operator=(const AgentProcess&) = delete;

  pid_t pid() const { return pid_; }
  // The connection that the agent dialled. The caller owns it.
  int AcceptControl(int timeout_ms = 5000);
  // A connection to where the agent listens. The caller owns it.
  int Connect() const;
  // The same for raw streams.
  int ConnectRaw() const;

  size_t OpenDescriptors() const;
  // Whether the number comes back to `count`: ends of connections are noticed a moment later.
  bool ReturnsToDescriptors(size_t count) const;
  size_t ResidentKib() const;
  // Children of the agent that have ended and were not collected.
  size_t Zombies() const;

  // Waits for the end and returns the wait status.
  int Wait();

 private:
  static int ConnectTo(const std::string& name);

  pid_t pid_ = -1;
  int lifeline_ = -1;
  int control_listener_ = -1;
  int control_ = -1;
  std::string name_;
  bool ended_ = false;
};

}  // namespace embervm::agent_test
