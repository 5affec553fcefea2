// Completion<T>: an answer that is owed. Whoever drops one without answering
// (a task that a closing machine never ran) has answered ERR_MACHINE_CLOSED, so
// no promise of a caller stays pending.
#ifndef EMBERVM_MACHINE_COMPLETION_H_
#define EMBERVM_MACHINE_COMPLETION_H_

#include <functional>
#include <utility>

#include "base/result.h"

namespace embervm::machine {

template <class T = void>
class Completion {
 public:
  using Function = std::move_only_function<void(Result<T>)>;

  explicit Completion(Function function) : function_(std::move(function)) {}
  Completion(Completion&& other) noexcept : function_(std::exchange(other.function_, nullptr)) {}
  Completion& operator=(Completion&& other) noexcept {
    std::swap(function_, other.function_);
    return *this;
  }
  Completion(const Completion&) = delete;
  Completion& operator=(const Completion&) = delete;
  ~Completion() {
    if (function_) {
      function_(std::unexpected(Error("ERR_MACHINE_CLOSED", "the machine is closed")));
    }
  }

  void operator()(Result<T> result) {
    if (!function_) return;
    // Emptied first: the answer may drop the last owner of this object.
    Function function = std::exchange(function_, nullptr);
    function(std::move(result));
  }

 private:
  Function function_;
};

}  // namespace embervm::machine

#endif  // EMBERVM_MACHINE_COMPLETION_H_
