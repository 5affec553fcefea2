#include "napi/file_lock.h"

#include <fcntl.h>

#include <cerrno>

#include "base/result.h"
#include "napi/convert.h"

namespace embervm::napi {

namespace {

// The whole file, however long it becomes. `l_pid` must be 0 for F_OFD_*.
struct flock WholeFile() {
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  return lock;
}

Result<int> DescriptorFrom(const Napi::CallbackInfo& info) {
  if (info.Length() != 1 || !info[0].IsNumber()) {
    return std::unexpected(Error("ERR_INTERNAL", "a lock needs the number of a descriptor"));
  }
  return info[0].As<Napi::Number>().Int32Value();
}

Napi::Value ThrowErrno(Napi::Env env, const char* what) {
  Throw(env, Error::FromErrno("ERR_STATE_DIR", "fcntl", errno, what));
  return env.Undefined();
}

}  // namespace

Napi::Value LockFile(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto descriptor = DescriptorFrom(info);
  if (!descriptor.has_value()) {
    Throw(env, descriptor.error());
    return env.Undefined();
  }
  struct flock lock = WholeFile();
  if (::fcntl(descriptor.value(), F_OFD_SETLK, &lock) == 0) return Napi::Boolean::New(env, true);
  // POSIX allows either for a lock that is held.
  if (errno == EAGAIN || errno == EACCES) return Napi::Boolean::New(env, false);
  return ThrowErrno(env, "lock a file");
}

Napi::Value IsFileLocked(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto descriptor = DescriptorFrom(info);
  if (!descriptor.has_value()) {
    Throw(env, descriptor.error());
    return env.Undefined();
  }
  struct flock lock = WholeFile();
  if (::fcntl(descriptor.value(), F_OFD_GETLK, &lock) != 0) {
    return ThrowErrno(env, "look at the lock of a file");
  }
  return Napi::Boolean::New(env, lock.l_type != F_UNLCK);
}

}  // namespace embervm::napi
