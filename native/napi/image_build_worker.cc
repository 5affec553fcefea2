#include "napi/image_build_worker.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "image/builder.h"
#include "napi/convert.h"

namespace embervm::napi {

namespace {

using image::ErofsReport;
using image::ImageLimits;

struct Request {
  std::vector<std::string> layers;
  std::string path;
  ImageLimits limits;
};

std::unexpected<Error> WrongType(const char* what) {
  return std::unexpected(Error("ERR_INTERNAL", std::string("buildImage: ") + what));
}

Result<std::string> PathFromJs(const Napi::Value& value) {
  if (!value.IsString()) return WrongType("a path must be a string");
  std::string path = value.As<Napi::String>().Utf8Value();
  // The system calls would silently stop at it.
  if (path.empty() || path.find('\0') != std::string::npos) {
    return std::unexpected(
        Error("ERR_INVALID_CONFIG", "a path must not be empty or contain a NUL byte"));
  }
  return path;
}

Result<ImageLimits> LimitsFromJs(const Napi::Object& object) {
  struct Field {
    const char* name;
    std::uint64_t ImageLimits::* member;
  };
  constexpr std::array<Field, 8> kFields = {{{"entries", &ImageLimits::max_entries},
                                             {"pathBytes", &ImageLimits::max_path_bytes},
                                             {"depth", &ImageLimits::max_depth},
                                             {"fileBytes", &ImageLimits::max_file_bytes},
                                             {"totalBytes", &ImageLimits::max_total_bytes},
                                             {"metadataBytes", &ImageLimits::max_metadata_bytes},
                                             {"imageBytes", &ImageLimits::max_image_bytes},
                                             {"layers", &ImageLimits::max_layers}}};
  // Sums of what they allow stay far from 64 bits.
  constexpr double kMost = 1ULL << 48U;
  ImageLimits limits;
  for (const Field& field : kFields) {
    const Napi::Value value = object.Get(field.name);
    if (value.IsUndefined()) continue;
    if (!value.IsNumber()) return WrongType("a limit must be a number");
    const double number = value.As<Napi::Number>().DoubleValue();
    // The negated test refuses NaN, too.
    if (!(number >= 0 && number <= kMost) || number != std::floor(number)) {
      return WrongType("a limit must be an integer");
    }
    // Directories are walked recursively: nobody may raise what the stack allows.
    const auto wanted = static_cast<std::uint64_t>(number);
    const bool only_lower =
        field.member == &ImageLimits::max_depth || field.member == &ImageLimits::max_path_bytes;
    limits.*field.member = only_lower ? std::min(wanted, limits.*field.member) : wanted;
  }
  return limits;
}

Result<Request> RequestFromJs(const Napi::Value& value) {
  if (!value.IsObject()) return WrongType("takes an object");
  const auto object = value.As<Napi::Object>();
  Request request;
  EMBERVM_TRY_ASSIGN(request.path, PathFromJs(object.Get("path")));
  const Napi::Value layers = object.Get("layers");
  if (!layers.IsArray()) return WrongType("layers must be an array");
  const auto array = layers.As<Napi::Array>();
  for (std::uint32_t i = 0; i < array.Length(); ++i) {
    EMBERVM_TRY_ASSIGN(std::string layer, PathFromJs(array.Get(i)));
    request.layers.push_back(std::move(layer));
  }
  const Napi::Value limits = object.Get("limits");
  if (!limits.IsObject()) return WrongType("limits must be an object");
  EMBERVM_TRY_ASSIGN(request.limits, LimitsFromJs(limits.As<Napi::Object>()));
  return request;
}

class ImageBuildWorker : public Napi::AsyncWorker {
 public:
  ImageBuildWorker(Napi::Env env, Request request)
      : AsyncWorker(env),
        deferred_(Napi::Promise::Deferred::New(env)),
        request_(std::move(request)),
        cancelled_(std::make_shared<std::atomic<bool>>(false)) {}

  [[nodiscard]] Napi::Promise promise() const { return deferred_.Promise(); }
  // Written by the JS thread, read by the pool's.
  [[nodiscard]] const std::shared_ptr<std::atomic<bool>>& cancelled() const { return cancelled_; }

 protected:
  void Execute() override {
    result_ = image::BuildImage(request_.layers, request_.path, request_.limits, *cancelled_);
  }

  void OnOK() override {
    if (!result_.has_value()) {
      deferred_.Reject(ToJs(Env(), result_.error()));
      return;
    }
    const auto report = Napi::Object::New(Env());
    report.Set("imageBytes", static_cast<double>(result_->image_bytes));
    report.Set("inodes", static_cast<double>(result_->inodes));
    deferred_.Resolve(report);
  }

 private:
  Napi::Promise::Deferred deferred_;
  Request request_;
  std::shared_ptr<std::atomic<bool>> cancelled_;
  Result<ErofsReport> result_;
};

}  // namespace

Napi::Value BuildImageAsync(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Result<Request> request = RequestFromJs(info[0]);
  if (!request.has_value()) {
    Throw(env, request.error());
    return env.Undefined();
  }
  auto worker = std::make_unique<ImageBuildWorker>(env, std::move(request).value());
  const auto job = Napi::Object::New(env);
  job.Set("done", worker->promise());
  job.Set("cancel",
          Napi::Function::New(env, [cancelled = worker->cancelled()](const Napi::CallbackInfo&) {
            cancelled->store(true, std::memory_order_relaxed);
          }));
  // It deletes itself when it is done.
  worker.release()->Queue();
  return job;
}

}  // namespace embervm::napi
