#include "base/thread.h"

#include <csignal>
#include <memory>
#include <utility>

namespace embervm {

namespace {

// Reserved, not committed: enough for the deepest of our threads many times over.
constexpr std::size_t kStackSize = 1024UL * 1024UL;
constexpr std::size_t kMaxName = 15;

sigset_t AllButFaults() {
  sigset_t set;
  sigfillset(&set);
  // Those that the thread itself causes: blocked, they would end the process
  // without a word to a handler that the program may have.
  for (const int fault : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP}) sigdelset(&set, fault);
  return set;
}

void* RunBody(void* body) {
  const std::unique_ptr<Thread::Body> owned(static_cast<Thread::Body*>(body));
  (*owned)();
  return nullptr;
}

}  // namespace

Thread::Thread(Thread&& other) noexcept
    : handle_(other.handle_), joinable_(std::exchange(other.joinable_, false)) {}

Thread& Thread::operator=(Thread&& other) noexcept {
  if (this != &other) {
    Join();
    handle_ = other.handle_;
    joinable_ = std::exchange(other.joinable_, false);
  }
  return *this;
}

Result<Thread> Thread::Start(const std::string& name, Body body) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kStackSize);
  const sigset_t mask = AllButFaults();
  pthread_attr_setsigmask_np(&attributes, &mask);
  Thread thread;
  auto owned = std::make_unique<Body>(std::move(body));
  const int failure = pthread_create(&thread.handle_, &attributes, &RunBody, owned.get());
  pthread_attr_destroy(&attributes);
  if (failure != 0) {
    return std::unexpected(
        Error::FromErrno("ERR_RESOURCE_LIMIT", "pthread_create", failure, "start " + name));
  }
  // The thread owns its body now.
  [[maybe_unused]] const Body* const running = owned.release();
  thread.joinable_ = true;
  pthread_setname_np(thread.handle_, name.substr(0, kMaxName).c_str());
  return thread;
}

void Thread::Join() {
  if (std::exchange(joinable_, false)) pthread_join(handle_, nullptr);
}

}  // namespace embervm
