// Completion: lets a vCPU thread wait for a task on the device thread. The wait ends
// when the task has run, and also when it is destroyed unrun, as happens to tasks that
// are posted to a loop that has stopped.
#ifndef EMBERVM_VIRTIO_COMPLETION_H_
#define EMBERVM_VIRTIO_COMPLETION_H_

#include <atomic>
#include <memory>
#include <utility>

namespace embervm::virtio {

class Completion {
 public:
  // Goes into the task; its end releases the waiter.
  class Token {
   public:
    explicit Token(std::shared_ptr<std::atomic<bool>> done) : done_(std::move(done)) {}
    Token(Token&&) = default;
    Token& operator=(Token&&) = delete;
    Token(const Token&) = delete;
    Token& operator=(const Token&) = delete;
    ~Token() { Release(done_.get()); }

   private:
    std::shared_ptr<std::atomic<bool>> done_;
  };

  [[nodiscard]] Token MakeToken() const { return Token(done_); }
  // Any thread, as often as needed.
  void Abandon() const { Release(done_.get()); }
  // The release in Release() pairs with this acquire: the waiter sees what the task did.
  void Wait() const { done_->wait(false, std::memory_order_acquire); }

 private:
  static void Release(std::atomic<bool>* done) {
    if (done == nullptr) return;
    done->store(true, std::memory_order_release);
    done->notify_all();
  }

  std::shared_ptr<std::atomic<bool>> done_ = std::make_shared<std::atomic<bool>>(false);
};

}  // namespace embervm::virtio

#endif  // EMBERVM_VIRTIO_COMPLETION_H_
