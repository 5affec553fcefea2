// Thread: a joining thread whose creation can fail with an error instead of an
// exception, and that starts with every signal blocked: the host program's
// signals belong to the host program's threads.
#ifndef EMBERVM_BASE_THREAD_H_
#define EMBERVM_BASE_THREAD_H_

#include <pthread.h>

#include <functional>
#include <string>

#include "base/result.h"

namespace embervm {

class Thread {
 public:
  using Body = std::move_only_function<void()>;

  Thread() = default;
  Thread(Thread&& other) noexcept;
  Thread& operator=(Thread&& other) noexcept;
  Thread(const Thread&) = delete;
  Thread& operator=(const Thread&) = delete;
  ~Thread() { Join(); }

  // `name` shows in /proc; at most 15 bytes of it.
  static Result<Thread> Start(const std::string& name, Body body);

  [[nodiscard]] bool joinable() const { return joinable_; }
  // Valid while joinable.
  [[nodiscard]] pthread_t handle() const { return handle_; }
  void Join();

 private:
  pthread_t handle_{};
  bool joinable_ = false;
};

}  // namespace embervm

#endif  // EMBERVM_BASE_THREAD_H_
