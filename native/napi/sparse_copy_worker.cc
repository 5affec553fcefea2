#include "napi/sparse_copy_worker.h"

#include <memory>
#include <string>
#include <utility>

#include "base/result.h"
#include "base/sparse_copy.h"
#include "napi/convert.h"

namespace embervm::napi {

namespace {

class SparseCopyWorker : public Napi::AsyncWorker {
 public:
  SparseCopyWorker(Napi::Env env, std::string from, std::string to, bool durable)
      : AsyncWorker(env),
        deferred_(Napi::Promise::Deferred::New(env)),
        from_(std::move(from)),
        to_(std::move(to)),
        durable_(durable) {}

  [[nodiscard]] Napi::Promise promise() const { return deferred_.Promise(); }

 protected:
  void Execute() override { result_ = CopySparse(from_, to_, durable_); }

  void OnOK() override {
    if (result_.has_value()) {
      deferred_.Resolve(Env().Undefined());
    } else {
      deferred_.Reject(ToJs(Env(), result_.error()));
    }
  }

 private:
  Napi::Promise::Deferred deferred_;
  std::string from_;
  std::string to_;
  bool durable_;
  Result<> result_;
};

}  // namespace

Napi::Value CopySparseAsync(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (info.Length() != 3 || !info[0].IsString() || !info[1].IsString() || !info[2].IsBoolean()) {
    Throw(env, Error("ERR_INTERNAL", "copySparse(from, to, durable)"));
    return env.Undefined();
  }
  auto worker = std::make_unique<SparseCopyWorker>(env, info[0].As<Napi::String>().Utf8Value(),
                                                   info[1].As<Napi::String>().Utf8Value(),
                                                   info[2].As<Napi::Boolean>().Value());
  const Napi::Promise promise = worker->promise();
  // It deletes itself when it is done.
  worker.release()->Queue();
  return promise;
}

}  // namespace embervm::napi
