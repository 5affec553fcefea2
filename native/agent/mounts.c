#include "mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

// Of the kernel's ext4.h, which exports no header for it.
#define EXT4_IOC_RESIZE_FS _IOW('f', 16, uint64_t)

int make_directory(const char* path, unsigned mode, struct text* reason) {
  if (mkdir(path, mode) == 0 || errno == EEXIST) {
    return 0;
  }
  const int error = errno;
  text_failure(reason, "mkdir", path, error);
  return error;
}

static int try_mount(const struct mount_request* request) {
  return mount(request->source, request->target, request->fstype, request->flags, request->data) ==
                 0
             ? 0
             : errno;
}

int mount_at(const struct mount_request* request, struct text* reason) {
  int error = try_mount(request);
  if (error == ENOENT) {
    // Most images have the directory, so it is made only now. When the missing
    // path is the source, the second try says so again.
    error = make_directory(request->target, 0755, reason);
    if (error != 0) {
      return error;
    }
    error = try_mount(request);
  }
  if (error != 0) {
    text_join(reason, "mount(", request->source, " on ", request->target, ", ", request->fstype,
              "): ", strerror(error), NULL);
  }
  return error;
}

static int device_size(const char* device, uint64_t* size, struct text* reason) {
  const int fd = open(device, O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    const int error = errno;
    text_failure(reason, "open", device, error);
    return error;
  }
  int error = 0;
  // The raw call: musl's ioctl takes an int, which this number overflows.
  if (syscall(SYS_ioctl, fd, BLKGETSIZE64, size) < 0) {
    error = errno;
    text_failure(reason, "ioctl BLKGETSIZE64", device, error);
  }
  close(fd);
  return error;
}

int grow_opened(const char* device, int fd, const char* shown, struct text* reason) {
  uint64_t size;
  int error = device_size(device, &size, reason);
  if (error != 0) {
    return error;
  }
  struct statfs status;
  if (fstatfs(fd, &status) < 0) {
    error = errno;
    text_failure(reason, "fstatfs", shown, error);
    return error;
  }
  const uint64_t blocks = size / (uint64_t)status.f_bsize;
  if (ioctl(fd, EXT4_IOC_RESIZE_FS, &blocks) < 0) {
    error = errno;
    text_failure(reason, "ioctl EXT4_IOC_RESIZE_FS", shown, error);
  }
  return error;
}

int grow_to_device(const char* device, const char* target, struct text* reason) {
  const int fd = open(target, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) {
    const int error = errno;
    text_failure(reason, "open", target, error);
    return error;
  }
  const int error = grow_opened(device, fd, target, reason);
  close(fd);
  return error;
}
