// JsQueue: the one door from a machine's threads to its JS thread. Completions
// and events line up behind one thread-safe function and are run in batches.
#ifndef EMBERVM_NAPI_JS_QUEUE_H_
#define EMBERVM_NAPI_JS_QUEUE_H_

#include <napi.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

namespace embervm::napi {

class JsQueue : public std::enable_shared_from_this<JsQueue> {
 public:
  using Job = std::move_only_function<void(Napi::Env)>;
  // Runs after every batch, on the JS thread.
  using BatchEnd = std::function<void(Napi::Env)>;

  static std::shared_ptr<JsQueue> Create(Napi::Env env, BatchEnd batch_end);
  JsQueue(const JsQueue&) = delete;
  JsQueue& operator=(const JsQueue&) = delete;
  ~JsQueue();

  // Any thread. Dropped unrun when the environment is going away.
  void Post(Job job);

  // JS thread. The event loop stays alive while the count is positive.
  void Hold(Napi::Env env);
  void Unhold(Napi::Env env);

  // JS thread. Later posts are dropped.
  void Close();

 private:
  explicit JsQueue(BatchEnd batch_end) : batch_end_(std::move(batch_end)) {}
  static void Drain(napi_env env, napi_value callback, void* context, void* data);

  BatchEnd batch_end_;
  std::size_t holds_ = 0;

  std::mutex mutex_;
  napi_threadsafe_function function_ = nullptr;  // Guarded by mutex_; null once closed.
  std::vector<Job> jobs_;                        // Guarded by mutex_.
};

}  // namespace embervm::napi

#endif  // EMBERVM_NAPI_JS_QUEUE_H_
