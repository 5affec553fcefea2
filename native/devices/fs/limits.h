// What a guest may ask of a shared directory at once.
#ifndef EMBERVM_DEVICES_FS_LIMITS_H_
#define EMBERVM_DEVICES_FS_LIMITS_H_

#include <cstddef>
#include <cstdint>

namespace embervm::devices::fs {

// Linux gives a message as many pages as the queue has entries, less four for headers.
inline constexpr std::uint16_t kQueueSize = 256;
inline constexpr std::uint32_t kPageBytes = 4096;
inline constexpr std::uint16_t kMaxPages = kQueueSize - 4;
inline constexpr std::uint32_t kMaxTransfer = kMaxPages * kPageBytes;

// Linux' own: NAME_MAX, PATH_MAX without its NUL, XATTR_SIZE_MAX, XATTR_NAME_MAX.
inline constexpr std::size_t kMaxName = 255;
inline constexpr std::size_t kMaxLinkTarget = 4095;
inline constexpr std::size_t kMaxXattr = 65536;
inline constexpr std::size_t kMaxXattrName = 255;

// A message without its data: the longest is a SETXATTR.
inline constexpr std::size_t kMaxBody = kMaxXattr + 4096;
// Of one READDIR.
inline constexpr std::size_t kMaxListing = 65536;
// Of one COPY_FILE_RANGE: the driver asks again for the rest.
inline constexpr std::uint64_t kMaxCopy = std::uint64_t{64} << 20U;

// What a file counts towards a quota beside its blocks, so that the number of files has a
// bound, too.
inline constexpr std::uint64_t kInodeBytes = 512;

// Locks that wait. Each is tried again at every interval.
inline constexpr std::size_t kMaxWaitingLocks = 64;
inline constexpr int kLockRetryMs = 20;

}  // namespace embervm::devices::fs

#endif  // EMBERVM_DEVICES_FS_LIMITS_H_
