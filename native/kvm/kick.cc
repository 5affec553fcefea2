#include "kvm/kick.h"

#include <cerrno>
#include <csignal>
#include <mutex>

namespace embervm {

namespace {

// Interrupting the system call is all that is wanted.
void OnKick(int /*signal*/) {}

bool IsUnused(int signal) {
  struct sigaction current{};
  return ::sigaction(signal, nullptr, &current) == 0 && (current.sa_flags & SA_SIGINFO) == 0 &&
         current.sa_handler == SIG_DFL;
}

bool Install(int signal) {
  struct sigaction action{};
  action.sa_handler = OnKick;
  // No SA_RESTART: KVM_RUN must return. SA_ONSTACK: Go-like runtimes in the
  // same process demand it of every handler.
  action.sa_flags = SA_ONSTACK;
  ::sigemptyset(&action.sa_mask);
  return ::sigaction(signal, &action, nullptr) == 0;
}

}  // namespace

Result<int> KickSignal() {
  static std::mutex mutex;
  static int installed = 0;  // Guarded by mutex; 0 before the first success.
  const std::lock_guard lock(mutex);
  if (installed != 0) return installed;
  for (int signal = SIGRTMIN; signal <= SIGRTMAX; ++signal) {
    if (IsUnused(signal) && Install(signal)) {
      installed = signal;
      return installed;
    }
  }
  return std::unexpected(Error("ERR_RESOURCE_LIMIT",
                               "every real-time signal of this process has a handler; one must "
                               "be free to interrupt vCPUs"));
}

void Kick(pthread_t thread, int signal) { ::pthread_kill(thread, signal); }

Result<> UnblockKickSignal(int signal) {
  sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, signal);
  if (const int error = ::pthread_sigmask(SIG_UNBLOCK, &set, nullptr); error != 0) {
    return std::unexpected(
        Error::FromErrno("ERR_INTERNAL", "pthread_sigmask", error, "vCPU kick signal"));
  }
  return {};
}

}  // namespace embervm
