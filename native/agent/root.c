#include "root.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "identity.h"
#include "inroot.h"
#include "limits.h"
#include "lines.h"
#include "log.h"
#include "mounts.h"
#include "root_inside.h"

// Of <linux/mount.h>, which cannot be included beside <sys/mount.h>.
#ifndef OPEN_TREE_CLONE
#define OPEN_TREE_CLONE 1
#define OPEN_TREE_CLOEXEC O_CLOEXEC
#endif
#ifndef MOVE_MOUNT_F_EMPTY_PATH
#define MOVE_MOUNT_F_EMPTY_PATH 4
#endif

#define LOWER_PATH "/lower"
#define UPPER_PATH "/upper"
#define ROOT_PATH "/root"
#define UPPER_DIRECTORY UPPER_PATH "/upper"
#define WORK_DIRECTORY UPPER_PATH "/work"

enum { kMaxHostname = 64, kMaxMountData = 4095 };

static struct {
  const char* path;
  int fd;
  int null_fd;
  int terminals_fd;
} root = {.path = NULL, .fd = -1, .null_fd = -1, .terminals_fd = -1};

bool root_is_ready(void) { return root.path != NULL; }
const char* root_path(void) { return root.path; }
int root_fd(void) { return root.fd; }
int root_null_fd(void) { return root.null_fd; }
int root_terminals_fd(void) { return root.terminals_fd; }

bool root_adopt(const char* path) {
  root.fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
  root.null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (root.fd < 0 || root.null_fd < 0) {
    return false;
  }
  // Held from before the first workload, which may mount something else there.
  root.terminals_fd = open_in_root(root.fd, "/dev/pts", O_PATH | O_DIRECTORY);
  root.path = path;
  return true;
}

static void forget(void) {
  if (root.fd >= 0) {
    close(root.fd);
  }
  if (root.null_fd >= 0) {
    close(root.null_fd);
  }
  if (root.terminals_fd >= 0) {
    close(root.terminals_fd);
  }
  root.path = NULL;
  root.fd = -1;
  root.null_fd = -1;
  root.terminals_fd = -1;
}

// --- What the request may say

static const char* check_mount(const Mount* mount) {
  if (mount->fstype[0] == '\0') {
    return "a mount has no fstype";
  }
  if (strlen(mount->data) > kMaxMountData) {
    return "the data of a mount is over 4095 bytes";
  }
  return NULL;
}

static bool has_dot_dot(const char* path) {
  struct slice rest = {path, strlen(path)};
  struct slice part;
  while (slice_next(&rest, '/', &part)) {
    if (slice_equals(part, (struct slice){"..", 2})) {
      return true;
    }
  }
  return false;
}

static const char* check_request(const SetUpRootRequest* request) {
  if (strlen(request->hostname) > kMaxHostname) {
    return "the hostname is over 64 bytes";
  }
  if (request->root_case == EMBERVM__AGENT__V1__SET_UP_ROOT_REQUEST__ROOT_OVERLAY) {
    const OverlayRoot* overlay = request->overlay;
    if (overlay->lower == NULL) {
      return "an overlay root needs lower";
    }
    if (overlay->grow_upper && overlay->upper == NULL) {
      return "grow_upper needs upper";
    }
    const char* wrong = check_mount(overlay->lower);
    return wrong == NULL && overlay->upper != NULL ? check_mount(overlay->upper) : wrong;
  }
  if (request->root_case == EMBERVM__AGENT__V1__SET_UP_ROOT_REQUEST__ROOT_DIRECTORY) {
    const DirectoryRoot* directory = request->directory;
    if (directory->mount == NULL && directory->path[0] == '\0') {
      return "a directory root needs a mount or a path";
    }
    if (directory->path[0] != '\0' && (directory->path[0] != '/' || has_dot_dot(directory->path))) {
      return "the path of a directory root must be absolute and without \"..\"";
    }
    return directory->mount == NULL ? NULL : check_mount(directory->mount);
  }
  return "the request names no root";
}

// --- The root itself

// At a place of the agent's own, which the initramfs does not have yet.
static int mount_own(const struct mount_request* request, struct text* reason) {
  const int error = make_directory(request->target, 0755, reason);
  return error == 0 ? mount_at(request, reason) : error;
}

static int mount_message(const Mount* message, const char* target, unsigned long flags,
                         struct text* reason) {
  const struct mount_request request = {
      .source = message->source[0] == '\0' ? "none" : message->source,
      .target = target,
      .fstype = message->fstype,
      .data = message->data,
      .flags = flags | (message->read_only ? MS_RDONLY : 0),
  };
  return mount_own(&request, reason);
}

// The top directory of an overlay takes owner and mode from the upper layer.
static int copy_top_attributes(struct text* reason) {
  struct stat status;
  if (stat(LOWER_PATH, &status) == 0 && chown(UPPER_DIRECTORY, status.st_uid, status.st_gid) == 0 &&
      chmod(UPPER_DIRECTORY, status.st_mode & 07777) == 0) {
    return 0;
  }
  const int error = errno;
  text_failure(reason, "copy the attributes of the lower root", UPPER_DIRECTORY, error);
  return error;
}

static int make_upper_directories(struct text* reason) {
  if (mkdir(UPPER_DIRECTORY, 0755) == 0) {
    const int error = copy_top_attributes(reason);
    if (error != 0) {
      return error;
    }
  } else if (errno != EEXIST) {
    const int error = errno;
    text_failure(reason, "mkdir", UPPER_DIRECTORY, error);
    return error;
  }
  return make_directory(WORK_DIRECTORY, 0700, reason);
}

static int mount_overlay(const OverlayRoot* overlay, struct text* reason) {
  int error = mount_message(overlay->lower, LOWER_PATH, MS_RDONLY | MS_NOATIME, reason);
  if (error != 0) {
    return error;
  }
  if (overlay->upper != NULL) {
    error = mount_message(overlay->upper, UPPER_PATH, MS_NOATIME, reason);
    if (error == 0 && overlay->grow_upper) {
      error = grow_to_device(overlay->upper->source, UPPER_PATH, reason);
    }
  } else {
    const struct mount_request request = {
        .source = "upper", .target = UPPER_PATH, .fstype = "tmpfs", .flags = MS_NOATIME};
    error = mount_own(&request, reason);
  }
  if (error == 0) {
    error = make_upper_directories(reason);
  }
  if (error != 0) {
    return error;
  }
  const struct mount_request request = {
      .source = "root",
      .target = ROOT_PATH,
      .fstype = "overlay",
      .data = "lowerdir=" LOWER_PATH ",upperdir=" UPPER_DIRECTORY ",workdir=" WORK_DIRECTORY,
      .flags = MS_NOATIME,
  };
  return mount_own(&request, reason);
}

// Binds a directory over ROOT_PATH. With a mount below it, its links must not
// lead out: the path is resolved as if the mount were "/".
static int bind_directory(const char* path, bool in_mount, struct text* reason) {
  const int base = open(in_mount ? ROOT_PATH : "/", O_PATH | O_DIRECTORY | O_CLOEXEC);
  const int directory = base < 0 ? -1 : open_in_root(base, path, O_PATH | O_DIRECTORY);
  int error = directory < 0 ? errno : 0;
  const char* call = "open";
  int tree = -1;
  if (error == 0) {
    call = "open_tree";
    tree = (int)syscall(SYS_open_tree, directory, "",
                        AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    error = tree < 0 ? errno : 0;
  }
  if (error == 0) {
    call = "move_mount";
    error = syscall(SYS_move_mount, tree, "", AT_FDCWD, ROOT_PATH, MOVE_MOUNT_F_EMPTY_PATH) < 0
                ? errno
                : 0;
  }
  if (error != 0) {
    text_failure(reason, call, path, error);
  }
  const int fds[] = {base, directory, tree};
  for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
    if (fds[i] >= 0) {
      close(fds[i]);
    }
  }
  return error;
}

static int mount_directory(const DirectoryRoot* directory, struct text* reason) {
  int error = directory->mount != NULL
                  ? mount_message(directory->mount, ROOT_PATH, MS_NOATIME, reason)
                  : make_directory(ROOT_PATH, 0755, reason);
  if (error == 0 && directory->path[0] != '\0') {
    error = bind_directory(directory->path, directory->mount != NULL, reason);
  }
  return error;
}

static int confine_root(struct text* reason) {
  // struct mount_attr and its MOUNT_ATTR_NOSUID and MOUNT_ATTR_NODEV (mount_setattr(2)): one of our
  // two C libraries lacks them, the other's clash with the kernel's.
  enum { kNoSuid = 2, kNoDev = 4 };
  const struct {
    uint64_t set;
    uint64_t clear;
    uint64_t propagation;
    uint64_t user_namespace;
  } attributes = {.set = kNoSuid | kNoDev};
  if (syscall(SYS_mount_setattr, AT_FDCWD, ROOT_PATH, 0, &attributes, sizeof(attributes)) == 0) {
    return 0;
  }
  const int error = errno;
  text_failure(reason, "mount_setattr", ROOT_PATH, error);
  return error;
}

// The agent's own view of the devices: disks to mount, /dev/null for stdin.
static int mount_own_devices(struct text* reason) {
  const struct mount_request request = {
      .source = "devtmpfs", .target = "/dev", .fstype = "devtmpfs", .flags = MS_NOSUID};
  const int error = mount_at(&request, reason);
  // EBUSY: it is mounted there already, by an attempt before.
  return error == EBUSY ? 0 : error;
}

static void unmount_all(void) {
  // One call takes the whole tree that is mounted inside the root; nobody uses it
  // any more, so the file systems below are released before the call returns.
  umount2(ROOT_PATH, MNT_DETACH);
  // A directory root may lie twice at the same place: mount and bind.
  umount2(ROOT_PATH, MNT_DETACH);
  if (umount2(UPPER_PATH, 0) < 0 && errno == EBUSY) {
    log_error("umount(" UPPER_PATH ")", errno);
    mount(NULL, UPPER_PATH, NULL, MS_REMOUNT | MS_RDONLY, NULL);
    umount2(UPPER_PATH, MNT_DETACH);
  }
  umount2(LOWER_PATH, MNT_DETACH);
}

int root_set_up(const SetUpRootRequest* request, struct text* reason) {
  if (root_is_ready()) {
    text_join(reason, "the root is set up already", NULL);
    return TTRPC_FAILED_PRECONDITION;
  }
  const char* wrong = check_request(request);
  if (wrong != NULL) {
    text_join(reason, wrong, NULL);
    return TTRPC_INVALID_ARGUMENT;
  }
  int error = mount_own_devices(reason);
  if (error == 0) {
    error = request->root_case == EMBERVM__AGENT__V1__SET_UP_ROOT_REQUEST__ROOT_OVERLAY
                ? mount_overlay(request->overlay, reason)
                : mount_directory(request->directory, reason);
  }
  if (error == 0 && request->restricted) {
    error = confine_root(reason);
  }
  if (error == 0) {
    error = root_furnish(ROOT_PATH, request->hostname, reason);
  }
  if (error == 0 && !root_adopt(ROOT_PATH)) {
    error = errno;
    text_failure(reason, "open", ROOT_PATH " or /dev/null", error);
  }
  if (error != 0) {
    forget();
    unmount_all();
    return TTRPC_INTERNAL;
  }
  identity_give_boot_id(root.fd);
  return 0;
}

void root_tear_down(void) {
  forget();
  unmount_all();
}
