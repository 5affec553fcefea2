// The one call of ioctl(2) on KVM descriptors.
#ifndef EMBERVM_KVM_IOCTL_H_
#define EMBERVM_KVM_IOCTL_H_

#include <string_view>

#include "base/result.h"

namespace embervm {

// Returns the result of the call, or an error that names `request_name`.
// `argument` is what the request defines: a number or the address of a struct.
Result<int> KvmIoctl(int fd, unsigned long request, std::string_view request_name,
                     unsigned long argument = 0);
Result<int> KvmIoctl(int fd, unsigned long request, std::string_view request_name,
                     const void* argument);

}  // namespace embervm

#endif  // EMBERVM_KVM_IOCTL_H_
