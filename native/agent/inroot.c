#include "inroot.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <unistd.h>

int create_in_root(int root_fd, const char* path, int flags, unsigned mode) {
  const struct open_how how = {
      .flags = (unsigned)flags | O_CLOEXEC,
      .mode = mode,
      // No magic links: /proc/<pid>/root would jump out.
      .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
  };
  return (int)syscall(SYS_openat2, root_fd, path, &how, sizeof(how));
}

int open_in_root(int root_fd, const char* path, int flags) {
  return create_in_root(root_fd, path, flags, 0);
}

int open_beneath(int dir_fd, const char* path, int flags) {
  const struct open_how how = {
      .flags = (unsigned)flags | O_CLOEXEC,
      .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS,
  };
  return (int)syscall(SYS_openat2, dir_fd, path, &how, sizeof(how));
}
