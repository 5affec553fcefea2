#include "kvm/ioctl.h"

#include <sys/ioctl.h>

#include <cerrno>
#include <string>

namespace embervm {

namespace {

// Requests are retried on EINTR except KVM_RUN, which is not called from here:
// KVM_CREATE_VM and others may be interrupted by any signal of the process.
template <class Argument>
Result<int> Call(int fd, unsigned long request, std::string_view request_name, Argument argument) {
  for (;;) {
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-vararg): ioctl is variadic.
    const int result = ::ioctl(fd, request, argument);
    if (result >= 0) return result;
    if (errno == EINTR) continue;
    const int saved_errno = errno;
    return std::unexpected(Error::FromErrno(
        "ERR_KVM_IOCTL", "ioctl(" + std::string(request_name) + ")", saved_errno, "KVM"));
  }
}

}  // namespace

Result<int> KvmIoctl(int fd, unsigned long request, std::string_view request_name,
                     unsigned long argument) {
  return Call(fd, request, request_name, argument);
}

Result<int> KvmIoctl(int fd, unsigned long request, std::string_view request_name,
                     const void* argument) {
  return Call(fd, request, request_name, argument);
}

}  // namespace embervm
