#include "inroot.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <unistd.h>

int open_in_root(int root_fd, const char* path, int flags) {
  const struct open_how how = {
      .flags = (unsigned)flags | O_CLOEXEC,
      // No magic links: /proc/<pid>/root would jump out.
      .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
  };
  return (int)syscall(SYS_openat2, root_fd, path, &how, sizeof(how));
}
