// The mount calls of Linux 5.2 and later, which one of our C libraries lacks, and
// whose header clashes with <sys/mount.h>.
#ifndef EMBERVM_CONTAINERS_MOUNT_CALLS_H_
#define EMBERVM_CONTAINERS_MOUNT_CALLS_H_

#include <fcntl.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
  kTreeClone = 1,
  kTreeRecursive = 0x8000,
  kMoveFromFd = 4,
};

// MOUNT_ATTR_*.
#define ATTRIBUTE_RDONLY UINT64_C(0x1)
#define ATTRIBUTE_NOSUID UINT64_C(0x2)
#define ATTRIBUTE_NODEV UINT64_C(0x4)
#define ATTRIBUTE_NOEXEC UINT64_C(0x8)
#define ATTRIBUTE_ATIME UINT64_C(0x70)
#define ATTRIBUTE_NOATIME UINT64_C(0x10)
#define ATTRIBUTE_STRICTATIME UINT64_C(0x20)
#define ATTRIBUTE_NODIRATIME UINT64_C(0x80)

struct mount_attributes {
  uint64_t set;
  uint64_t clear;
  uint64_t propagation;
  uint64_t user_namespace;
};

static inline int tree_clone(int directory, const char* path, int flags) {
  return (int)syscall(SYS_open_tree, directory, path, kTreeClone | O_CLOEXEC | flags);
}

static inline int tree_attach(int tree, int directory, const char* path) {
  return (int)syscall(SYS_move_mount, tree, "", directory, path, kMoveFromFd);
}

static inline int tree_set(int directory, const char* path, int flags,
                           const struct mount_attributes* attributes) {
  return (int)syscall(SYS_mount_setattr, directory, path, flags, attributes, sizeof(*attributes));
}

#endif  // EMBERVM_CONTAINERS_MOUNT_CALLS_H_
