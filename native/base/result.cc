#include "base/result.h"

#include <cstring>

namespace embervm {

std::string ErrnoName(int errno_value) {
  // GNU extension since glibc 2.32; null for a number without a name.
  const char* const name = strerrorname_np(errno_value);
  return name != nullptr ? std::string(name) : "E" + std::to_string(errno_value);
}

Error Error::FromErrno(std::string_view code, std::string_view syscall, int saved_errno,
                       std::string_view what) {
  const char* const description = strerrordesc_np(saved_errno);
  Error error(code, std::string(what) + ": " +
                        (description != nullptr ? description : "unknown error") + " (" +
                        ErrnoName(saved_errno) + " from " + std::string(syscall) + ")");
  error.syscall_ = syscall;
  error.errno_value_ = saved_errno;
  return error;
}

}  // namespace embervm
