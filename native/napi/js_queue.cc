#include "napi/js_queue.h"

namespace embervm::napi {

std::shared_ptr<JsQueue> JsQueue::Create(Napi::Env env, BatchEnd batch_end) {
  const std::shared_ptr<JsQueue> queue(new JsQueue(std::move(batch_end)));
  napi_value name = nullptr;
  napi_create_string_utf8(env, "embervm", NAPI_AUTO_LENGTH, &name);
  // The function owns a share of the queue, given back when Node finalizes it:
  // a call already under way must find the queue alive.
  auto* const share = std::make_unique<std::shared_ptr<JsQueue>>(queue).release();
  const napi_status status = napi_create_threadsafe_function(
      env, nullptr, nullptr, name, 0, 1, share,
      [](napi_env, void* data, void*) {
        const std::unique_ptr<std::shared_ptr<JsQueue>> owner(
            static_cast<std::shared_ptr<JsQueue>*>(data));
        const std::lock_guard lock((*owner)->mutex_);
        (*owner)->function_ = nullptr;
      },
      queue.get(), &JsQueue::Drain, &queue->function_);
  if (status != napi_ok) {
    const std::unique_ptr<std::shared_ptr<JsQueue>> owner(share);
    return nullptr;
  }
  napi_unref_threadsafe_function(env, queue->function_);
  return queue;  // NOLINT(performance-no-automatic-move): a share is cheap.
}

JsQueue::~JsQueue() = default;

void JsQueue::Post(Job job) {
  const std::lock_guard lock(mutex_);
  if (function_ == nullptr) return;
  jobs_.push_back(std::move(job));
  if (jobs_.size() > 1) return;  // A call for this batch is under way.
  if (napi_call_threadsafe_function(function_, nullptr, napi_tsfn_nonblocking) == napi_closing) {
    // Node gives up the function after this answer: it must not be touched again.
    function_ = nullptr;
    jobs_.clear();
  }
}

void JsQueue::Drain(napi_env env, napi_value /*callback*/, void* context, void* /*data*/) {
  auto* const queue = static_cast<JsQueue*>(context);
  std::vector<Job> jobs;
  {
    const std::lock_guard lock(queue->mutex_);
    jobs.swap(queue->jobs_);
  }
  // Null while the environment is being torn down: the jobs are dropped.
  if (env == nullptr) return;
  const Napi::HandleScope scope(env);
  for (Job& job : jobs) job(env);
  queue->batch_end_(env);
}

void JsQueue::Hold(Napi::Env env) {
  const std::lock_guard lock(mutex_);
  if (holds_++ == 0 && function_ != nullptr) napi_ref_threadsafe_function(env, function_);
}

void JsQueue::Unhold(Napi::Env env) {
  const std::lock_guard lock(mutex_);
  if (--holds_ == 0 && function_ != nullptr) napi_unref_threadsafe_function(env, function_);
}

void JsQueue::Close() {
  const std::lock_guard lock(mutex_);
  if (function_ == nullptr) return;
  napi_release_threadsafe_function(function_, napi_tsfn_release);
  function_ = nullptr;
}

}  // namespace embervm::napi
