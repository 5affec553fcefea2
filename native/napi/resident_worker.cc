#include "napi/resident_worker.h"

#include <memory>
#include <utility>

#include "napi/convert.h"

namespace embervm::napi {

namespace {

class ResidentWorker : public Napi::AsyncWorker {
 public:
  ResidentWorker(Napi::Env env, std::function<std::optional<std::uint64_t>()> count)
      : AsyncWorker(env), deferred_(Napi::Promise::Deferred::New(env)), count_(std::move(count)) {}

  [[nodiscard]] Napi::Promise promise() const { return deferred_.Promise(); }

 protected:
  void Execute() override { bytes_ = count_(); }

  void OnOK() override {
    if (bytes_.has_value()) {
      deferred_.Resolve(Napi::Number::New(Env(), static_cast<double>(*bytes_)));
    } else {
      deferred_.Reject(ToJs(Env(), MachineClosed()));
    }
  }

 private:
  Napi::Promise::Deferred deferred_;
  std::function<std::optional<std::uint64_t>()> count_;
  std::optional<std::uint64_t> bytes_;
};

}  // namespace

Napi::Promise CountResidentBytes(Napi::Env env,
                                 std::function<std::optional<std::uint64_t>()> count) {
  auto worker = std::make_unique<ResidentWorker>(env, std::move(count));
  const Napi::Promise promise = worker->promise();
  // It deletes itself when it is done.
  worker.release()->Queue();
  return promise;
}

}  // namespace embervm::napi
