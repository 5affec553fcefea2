#include "napi/next_data.h"

#include <cstdint>

#include "base/result.h"
#include "base/sparse_copy.h"
#include "napi/convert.h"

namespace embervm::napi {

Napi::Value NextData(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const bool numbers =
      info.Length() == 3 && info[0].IsNumber() && info[1].IsNumber() && info[2].IsNumber();
  const std::int64_t from = numbers ? info[1].As<Napi::Number>().Int64Value() : -1;
  const std::int64_t size = numbers ? info[2].As<Napi::Number>().Int64Value() : -1;
  if (from < 0 || size < 0) {
    Throw(env, Error("ERR_INTERNAL", "nextData(fd, from, size)"));
    return env.Undefined();
  }
  const auto data =
      embervm::NextData(info[0].As<Napi::Number>().Int32Value(), static_cast<std::uint64_t>(from),
                        static_cast<std::uint64_t>(size));
  if (!data.has_value()) return env.Undefined();
  Napi::Object range = Napi::Object::New(env);
  range.Set("begin", static_cast<double>(data->begin));
  range.Set("end", static_cast<double>(data->end));
  return range;
}

}  // namespace embervm::napi
