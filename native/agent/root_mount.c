#include "root_mount.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "files_at.h"
#include "inroot.h"
#include "mounts.h"
#include "root.h"

// Where a share is mounted for the moment in which a part of it is taken; the
// workload's root has no way here.
#define STAGING_PATH "/share"

#define SOURCE(name) EMBERVM__AGENT__V1__MOUNT_IN_ROOT_REQUEST__SOURCE_##name

enum {
  // Of <sys/mount.h>, which clashes with <linux/mount.h>.
  kDetach = 2,
  kMaxTag = 36,
  kMaxMode = 07777,
  kDefaultMode = 01777,
  kNumberSize = 24,
  kOctal = 8,
};

const char* root_mount_check(const MountInRootRequest* request) {
  if (request->target[0] != '/' || strlen(request->target) >= AGENT_PATH_SIZE) {
    return "target must be an absolute path of at most 4095 bytes";
  }
  switch (request->source_case) {
    case SOURCE(SHARE):
      if (request->share->tag[0] == '\0' || strlen(request->share->tag) > kMaxTag) {
        return "the tag of a share has 1 to 36 bytes";
      }
      return strlen(request->share->path) >= AGENT_PATH_SIZE
                 ? "the path of a share has at most 4095 bytes"
                 : NULL;
    case SOURCE(DISK):
      return request->disk->device[0] == '/' ? NULL : "a disk needs its device";
    case SOURCE(TMPFS):
      return request->tmpfs->mode <= kMaxMode ? NULL : "the mode of a tmpfs is at most 07777";
    default:
      return "the request names no source";
  }
}

// One option of a file system that is about to be.
struct option {
  const char* key;
  // NULL: a flag.
  const char* value;
};

static unsigned attributes_of(const MountInRootRequest* request) {
  return (request->read_only ? MOUNT_ATTR_RDONLY : 0u) |
         (request->no_exec ? MOUNT_ATTR_NOEXEC : 0u) | (request->no_suid ? MOUNT_ATTR_NOSUID : 0u) |
         (request->no_dev ? MOUNT_ATTR_NODEV : 0u);
}

// A mount that is nowhere yet. -1 with errno.
static int make_mount(const char* fstype, const struct option* options,
                      const MountInRootRequest* request) {
  FILE_SCOPED int context = (int)syscall(SYS_fsopen, fstype, FSOPEN_CLOEXEC);
  if (context < 0) {
    return -1;
  }
  for (; options->key != NULL; options++) {
    const int command = options->value == NULL ? FSCONFIG_SET_FLAG : FSCONFIG_SET_STRING;
    if (syscall(SYS_fsconfig, context, command, options->key, options->value, 0) < 0) {
      return -1;
    }
  }
  if (syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0) {
    return -1;
  }
  return (int)syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, attributes_of(request));
}

static int mount_disk(const MountInRootRequest* request) {
  static const char* const kTypes[] = {"ext4", "erofs"};
  const DiskSource* disk = request->disk;
  const struct option options[] = {
      {"source", disk->device},
      // For the file system too, or it would write on its own account.
      {request->read_only ? "ro" : NULL, NULL},
      {NULL, NULL},
  };
  if (disk->fstype[0] != '\0') {
    return make_mount(disk->fstype, options, request);
  }
  int fd = -1;
  for (size_t i = 0; i < sizeof(kTypes) / sizeof(kTypes[0]); i++) {
    fd = make_mount(kTypes[i], options, request);
    // EINVAL: another one's.
    if (fd >= 0 || errno != EINVAL) {
      break;
    }
  }
  return fd;
}

static void octal(char* to, uint32_t number) {
  char digits[kNumberSize];
  size_t at = sizeof(digits) - 1;
  digits[at] = '\0';
  do {
    digits[--at] = (char)('0' + number % kOctal);
    number /= kOctal;
  } while (number > 0);
  memcpy(to, digits + at, sizeof(digits) - at);
}

static int mount_tmpfs(const MountInRootRequest* request) {
  const TmpfsSource* tmpfs = request->tmpfs;
  char mode[kNumberSize];
  octal(mode, tmpfs->mode == 0 ? kDefaultMode : tmpfs->mode);
  struct text size;
  text_clear(&size);
  text_add_number(&size, tmpfs->size_bytes);
  const struct option options[] = {
      {"mode", mode},
      {tmpfs->size_bytes == 0 ? NULL : "size", size.data},
      {NULL, NULL},
  };
  return make_mount("tmpfs", options, request);
}

// The kernel clones only what is mounted somewhere.
static int take_part(int whole, const char* path) {
  if (mkdir(STAGING_PATH, S_IRWXU) < 0 && errno != EEXIST) {
    return -1;
  }
  if (syscall(SYS_move_mount, whole, "", AT_FDCWD, STAGING_PATH, MOVE_MOUNT_F_EMPTY_PATH) < 0) {
    return -1;
  }
  int tree = -1;
  FILE_SCOPED int part = open_in_root(whole, path, O_PATH);
  if (part >= 0) {
    tree =
        (int)syscall(SYS_open_tree, part, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
  }
  const int error = errno;
  syscall(SYS_umount2, STAGING_PATH, kDetach);
  errno = error;
  return tree;
}

static int mount_share(const MountInRootRequest* request) {
  const ShareSource* share = request->share;
  const struct option options[] = {{"source", share->tag}, {NULL, NULL}};
  FILE_SCOPED int whole = make_mount("virtiofs", options, request);
  if (whole < 0 || share->path[0] == '\0') {
    const int fd = whole;
    whole = -1;
    return fd;
  }
  return take_part(whole, share->path);
}

static int open_target(struct file_path* path, bool is_directory, struct file_error* error) {
  if (is_directory) {
    return file_make_directories(path, FILE_DEFAULT_DIRECTORY_MODE, error)
               ? file_open(path, O_PATH | O_DIRECTORY, error)
               : -1;
  }
  struct file_path parent = *path;
  char* const slash = strrchr(parent.text, '/');
  slash[slash == parent.text ? 1 : 0] = '\0';
  parent.length = strlen(parent.text);
  if (!file_make_directories(&parent, FILE_DEFAULT_DIRECTORY_MODE, error)) {
    return -1;
  }
  // Through links, as the workload would; not cut off, and none is left behind by O_PATH.
  FILE_SCOPED int made =
      create_in_root(root_fd(), path->text, O_WRONLY | O_CREAT | O_EXCL | O_NOCTTY, 0644);
  if (made < 0 && errno != EEXIST) {
    file_failed(error, "open");
    return -1;
  }
  return file_open(path, O_PATH, error);
}

// Nothing that is mounted over the root itself would be seen by anybody.
static bool is_root(int fd) {
  struct stat root;
  struct stat target;
  return fstat(root_fd(), &root) == 0 && fstat(fd, &target) == 0 && root.st_dev == target.st_dev &&
         root.st_ino == target.st_ino;
}

static int attach(int mount, const char* target, struct file_error* error) {
  struct stat status;
  if (fstat(mount, &status) < 0) {
    file_failed(error, "stat");
    return -1;
  }
  const bool is_directory = S_ISDIR(status.st_mode);
  const ProtobufCBinaryData bytes = {.len = strlen(target), .data = (uint8_t*)(uintptr_t)target};
  static struct file_path path;
  if (!file_path_get(&path, &bytes, error)) {
    return -1;
  }
  FILE_SCOPED int fd = open_target(&path, is_directory, error);
  if (fd < 0) {
    return -1;
  }
  if (is_root(fd)) {
    file_refused(error, EBUSY, "target");
    return -1;
  }
  if (syscall(SYS_move_mount, mount, "", fd, "",
              MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0) {
    file_failed(error, "move_mount");
    return -1;
  }
  return 0;
}

static int grow(int mount, const char* device, struct text* reason) {
  FILE_SCOPED int top = openat(mount, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (top < 0) {
    const int error = errno;
    text_failure(reason, "open", device, error);
    return error;
  }
  return grow_opened(device, top, device, reason);
}

int root_mount(const MountInRootRequest* request, struct text* reason) {
  FILE_SCOPED int mount = -1;
  switch (request->source_case) {
    case SOURCE(SHARE):
      mount = mount_share(request);
      break;
    case SOURCE(DISK):
      mount = mount_disk(request);
      break;
    default:
      mount = mount_tmpfs(request);
      break;
  }
  if (mount < 0) {
    const int error = errno;
    text_failure(reason, "mount", request->target, error);
    return error;
  }
  if (request->source_case == SOURCE(DISK) && request->disk->grow && !request->read_only) {
    const int failed = grow(mount, request->disk->device, reason);
    if (failed != 0) {
      return failed;
    }
  }
  struct file_error error;
  if (attach(mount, request->target, &error) < 0) {
    text_failure(reason, error.call, request->target, error.number);
    return error.number;
  }
  return 0;
}
