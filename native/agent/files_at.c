#include "files_at.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "inroot.h"
#include "root.h"
#include "text.h"

enum { kNsPerSecond = 1000000000, kPermissions = 07777, kPrivate = 0600 };

void file_close(int* fd) {
  if (*fd >= 0) {
    close(*fd);
    *fd = -1;
  }
}

bool file_refused(struct file_error* error, int number, char* call) {
  *error = (struct file_error){.number = number, .call = call};
  return false;
}

bool file_failed(struct file_error* error, char* call) { return file_refused(error, errno, call); }

bool file_path_get(struct file_path* path, const ProtobufCBinaryData* from,
                   struct file_error* error) {
  if (from->len == 0 || from->data[0] != '/' || memchr(from->data, '\0', from->len) != NULL) {
    return file_refused(error, EINVAL, "path");
  }
  if (from->len >= sizeof(path->text)) {
    return file_refused(error, ENAMETOOLONG, "path");
  }
  memcpy(path->text, from->data, from->len);
  path->text[from->len] = '\0';
  path->length = from->len;
  return true;
}

int file_open(const struct file_path* path, int flags, struct file_error* error) {
  const int fd = open_in_root(root_fd(), path->text, flags);
  if (fd < 0) {
    file_failed(error, "open");
  }
  return fd;
}

int file_open_parent(struct file_path* path, const char** name, struct file_error* error) {
  size_t length = path->length;
  while (length > 1 && path->text[length - 1] == '/') {
    length--;
  }
  path->text[length] = '\0';
  char* slash = strrchr(path->text, '/');
  *name = slash + 1;
  if (**name == '\0' || strcmp(*name, ".") == 0 || strcmp(*name, "..") == 0) {
    file_refused(error, EBUSY, "path");
    return -1;
  }
  if (slash == path->text) {
    path->length = 1;
    const int root = open_in_root(root_fd(), "/", O_PATH | O_DIRECTORY);
    if (root < 0) {
      file_failed(error, "open");
    }
    return root;
  }
  *slash = '\0';
  path->length = (size_t)(slash - path->text);
  return file_open(path, O_PATH | O_DIRECTORY, error);
}

int file_create_at(int dir_fd, const char* name, struct file_error* error) {
  // Twice: what is there is removed in between. Never through it: it may be a
  // link, or have other names.
  for (int attempt = 0;; attempt++) {
    const int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, kPrivate);
    if (fd >= 0) {
      return fd;
    }
    if (errno != EEXIST || attempt > 0) {
      file_failed(error, "open");
      return -1;
    }
    if (unlinkat(dir_fd, name, 0) < 0 && errno != ENOENT) {
      file_failed(error, "unlink");
      return -1;
    }
  }
}

bool file_symlink_at(const char* target, int dir_fd, const char* name, struct file_error* error) {
  for (int attempt = 0;; attempt++) {
    if (symlinkat(target, dir_fd, name) == 0) {
      return true;
    }
    if (errno != EEXIST || attempt > 0) {
      return file_failed(error, "symlink");
    }
    if (unlinkat(dir_fd, name, 0) < 0 && errno != ENOENT) {
      return file_failed(error, "unlink");
    }
  }
}

// A procfs that no workload has touched, mounted nowhere. -1 with errno.
static int own_proc(void) {
  static int proc = -1;
  if (proc >= 0) {
    return proc;
  }
  FILE_SCOPED int context = (int)syscall(SYS_fsopen, "proc", FSOPEN_CLOEXEC);
  if (context >= 0 && syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0) {
    proc = (int)syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, 0);
  }
  return proc;
}

// fchmod(2) does not take an O_PATH descriptor, and chmod(2) would follow a link
// that somebody puts in the place of the file.
static bool change_mode(int fd, uint32_t mode, struct file_error* error) {
  // Not libc's: musl tries /proc then, which there is none of for the agent.
  if (syscall(SYS_fchmod, fd, mode & kPermissions) == 0) {
    return true;
  }
  if (errno != EBADF) {
    return file_failed(error, "chmod");
  }
  const int proc = own_proc();
  if (proc < 0) {
    return file_failed(error, "fsmount");
  }
  struct text link;
  text_join(&link, "self/fd/", NULL);
  text_add_number(&link, (uint64_t)fd);
  return fchmodat(proc, link.data, (mode_t)mode & kPermissions, 0) == 0 ||
         file_failed(error, "chmod");
}

bool file_set(int fd, const struct file_attributes* attributes, struct file_error* error) {
  // The owner first: a change of it takes the set-user-id bit away.
  if ((attributes->flags & FILE_FLAG(SET_OWNER)) != 0 &&
      fchownat(fd, "", attributes->uid, attributes->gid, AT_EMPTY_PATH) < 0) {
    return file_failed(error, "chown");
  }
  if ((attributes->flags & FILE_FLAG(SET_MODE)) != 0 && !change_mode(fd, attributes->mode, error)) {
    return false;
  }
  if ((attributes->flags & FILE_FLAG(SET_TIME)) == 0) {
    return true;
  }
  // The nanoseconds are never negative, so the seconds are rounded down.
  int64_t seconds = attributes->mtime_ns / kNsPerSecond;
  int64_t rest = attributes->mtime_ns % kNsPerSecond;
  if (rest < 0) {
    seconds--;
    rest += kNsPerSecond;
  }
  const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT},
                                    {.tv_sec = seconds, .tv_nsec = (long)rest}};
  return utimensat(fd, "", times, AT_EMPTY_PATH) == 0 || file_failed(error, "utimensat");
}

static bool is_directory(const struct file_path* path) {
  FILE_SCOPED int fd = open_in_root(root_fd(), path->text, O_PATH | O_DIRECTORY);
  return fd >= 0;
}

bool file_make_directory(struct file_path* path, uint32_t mode, struct file_error* error) {
  const char* name;
  FILE_SCOPED int parent = file_open_parent(path, &name, error);
  if (parent < 0) {
    return false;
  }
  if (mkdirat(parent, name, (mode_t)mode) < 0) {
    return file_failed(error, "mkdir");
  }
  // The umask may have taken bits away.
  FILE_SCOPED int made = openat(parent, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  const struct file_attributes attributes = {.flags = FILE_FLAG(SET_MODE), .mode = mode};
  return made < 0 ? file_failed(error, "open") : file_set(made, &attributes, error);
}

bool file_make_directories(struct file_path* path, uint32_t mode, struct file_error* error) {
  if (is_directory(path)) {
    return true;
  }
  // From the top: each name that is not there yet. What ends in "." or ".." needs
  // no making, and is found by the next one if it is not there.
  while (path->length > 1 && path->text[path->length - 1] == '/') {
    path->text[--path->length] = '\0';
  }
  struct file_path part;
  for (size_t at = 1; at <= path->length; at++) {
    const bool ends = path->text[at] == '/' || path->text[at] == '\0';
    if (!ends || path->text[at - 1] == '/') {
      continue;
    }
    memcpy(part.text, path->text, at);
    part.text[at] = '\0';
    part.length = at;
    const bool last = at == path->length;
    if (!file_make_directory(&part, last ? mode : FILE_DEFAULT_DIRECTORY_MODE, error) &&
        error->number != EEXIST && error->number != EBUSY) {
      return false;
    }
  }
  return is_directory(path) || file_refused(error, EEXIST, "mkdir");
}

static int64_t to_ns(const struct timespec* time) {
  int64_t ns;
  if (__builtin_mul_overflow((int64_t)time->tv_sec, (int64_t)kNsPerSecond, &ns) ||
      __builtin_add_overflow(ns, (int64_t)time->tv_nsec, &ns)) {
    // An image may say anything.
    return time->tv_sec < 0 ? INT64_MIN : INT64_MAX;
  }
  return ns;
}

void file_describe(FileInfo* info, const struct stat* status) {
  info->mode = status->st_mode;
  info->size = (uint64_t)status->st_size;
  info->mtime_ns = to_ns(&status->st_mtim);
  info->uid = status->st_uid;
  info->gid = status->st_gid;
  info->links = (uint32_t)status->st_nlink;
  info->inode = status->st_ino;
}
