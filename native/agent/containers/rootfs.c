// The container's view of the file system, made by its first process: from the
// service's mounts to a tree of its own, and then nothing else.
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "../arena.h"
#include "child.h"
#include "files.h"
#include "mount_calls.h"

#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif

static const struct device_spec kDevices[] = {
    {"/dev/null", S_IFCHR | 0666, makedev(1, 3), 0, 0},
    {"/dev/zero", S_IFCHR | 0666, makedev(1, 5), 0, 0},
    {"/dev/full", S_IFCHR | 0666, makedev(1, 7), 0, 0},
    {"/dev/random", S_IFCHR | 0666, makedev(1, 8), 0, 0},
    {"/dev/urandom", S_IFCHR | 0666, makedev(1, 9), 0, 0},
    {"/dev/tty", S_IFCHR | 0666, makedev(5, 0), 0, 0},
};

static const char* const kLinks[][2] = {
    {"/proc/self/fd", "/dev/fd"},       {"/proc/self/fd/0", "/dev/stdin"},
    {"/proc/self/fd/1", "/dev/stdout"}, {"/proc/self/fd/2", "/dev/stderr"},
    {"pts/ptmx", "/dev/ptmx"},
};

static bool is_device_directory(const struct mount_spec* mount) {
  return strcmp(mount->target, "/dev") == 0;
}

// --- Places to mount on

static void make_directory_for(const char* path) {
  const int error = directories_make(path, 0755);
  if (error != 0) {
    child_fail("mkdir", path, error);
  }
}

static void make_parent_of(const char* path) {
  const char* slash = strrchr(path, '/');
  const size_t length = (size_t)(slash - path);
  char* parent = arena_allocate(length + 1);
  if (parent == NULL) {
    child_fail("mkdir", path, ENOMEM);
  }
  memcpy(parent, path, length);
  parent[length] = '\0';
  if (length > 0) {
    make_directory_for(parent);
  }
}

static void make_file_for(const char* path) {
  make_parent_of(path);
  const int fd = open(path, O_CREAT | O_RDONLY | O_CLOEXEC | O_NOFOLLOW, 0644);
  if (fd >= 0) {
    close(fd);
  } else if (errno != ELOOP && errno != EACCES && errno != ENXIO && errno != EROFS) {
    child_fail("create", path, errno);
  }
}

// --- Mounts

static unsigned long flags_of(const struct mount_spec* mount) {
  unsigned long flags = 0;
  flags |= (mount->set & ATTRIBUTE_RDONLY) != 0 && !is_device_directory(mount) ? MS_RDONLY : 0;
  flags |= (mount->set & ATTRIBUTE_NOSUID) != 0 ? MS_NOSUID : 0;
  flags |= (mount->set & ATTRIBUTE_NODEV) != 0 ? MS_NODEV : 0;
  flags |= (mount->set & ATTRIBUTE_NOEXEC) != 0 ? MS_NOEXEC : 0;
  flags |= (mount->set & ATTRIBUTE_NODIRATIME) != 0 ? MS_NODIRATIME : 0;
  flags |= (mount->set & ATTRIBUTE_ATIME) == ATTRIBUTE_NOATIME ? MS_NOATIME : 0;
  flags |= (mount->set & ATTRIBUTE_ATIME) == ATTRIBUTE_STRICTATIME ? MS_STRICTATIME : 0;
  return flags;
}

static void mount_new(const struct mount_spec* mount_spec) {
  make_directory_for(mount_spec->target);
  const char* source = mount_spec->source[0] == '\0' ? mount_spec->type : mount_spec->source;
  if (mount(source, mount_spec->target, mount_spec->type, flags_of(mount_spec), mount_spec->data) <
      0) {
    child_fail("mount", mount_spec->target, errno);
  }
}

static void mount_bind(const struct mount_spec* mount_spec, int tree) {
  struct stat status;
  if (fstat(tree, &status) < 0) {
    child_fail("stat", mount_spec->source, errno);
  }
  if (S_ISDIR(status.st_mode)) {
    make_directory_for(mount_spec->target);
  } else {
    make_file_for(mount_spec->target);
  }
  const struct mount_attributes attributes = {.set = mount_spec->set, .clear = mount_spec->clear};
  const int flags = AT_EMPTY_PATH | (mount_spec->attributes_recursive ? AT_RECURSIVE : 0);
  if ((attributes.set | attributes.clear) != 0 && tree_set(tree, "", flags, &attributes) < 0) {
    child_fail("mount_setattr", mount_spec->target, errno);
  }
  if (tree_attach(tree, AT_FDCWD, mount_spec->target) < 0) {
    child_fail("move_mount", mount_spec->target, errno);
  }
  close(tree);
}

static void mount_all(const struct container_spec* spec, const int* trees) {
  for (size_t i = 0; i < spec->mount_count; i++) {
    const struct mount_spec* entry = &spec->mounts[i];
    if (entry->bind) {
      mount_bind(entry, trees[i]);
    } else {
      mount_new(entry);
    }
    if (entry->propagation != 0 && mount(NULL, entry->target, NULL, entry->propagation, NULL) < 0) {
      child_fail("set the propagation", entry->target, errno);
    }
  }
}

// --- Devices

static void make_device(const struct device_spec* device) {
  make_parent_of(device->path);
  if (mknod(device->path, device->mode, device->number) < 0) {
    struct stat status;
    // What a default and an entry of the configuration both name.
    if (errno == EEXIST && lstat(device->path, &status) == 0 &&
        (status.st_mode & S_IFMT) == (device->mode & S_IFMT) && status.st_rdev == device->number) {
      return;
    }
    child_fail("mknod", device->path, errno);
  }
  if (chmod(device->path, device->mode & 07777) < 0 ||
      ((device->uid != 0 || device->gid != 0) &&
       chown(device->path, device->uid, device->gid) < 0)) {
    child_fail("chown", device->path, errno);
  }
}

// A /dev that is somebody else's has what it has.
static bool has_own_devices(const struct container_spec* spec) {
  for (size_t i = 0; i < spec->mount_count; i++) {
    if (is_device_directory(&spec->mounts[i])) {
      return !spec->mounts[i].bind && strcmp(spec->mounts[i].type, "devtmpfs") != 0;
    }
  }
  return true;
}

static void make_devices(const struct container_spec* spec) {
  // Of the specification first: they may have another owner than the defaults.
  for (size_t i = 0; i < spec->device_count; i++) {
    make_device(&spec->devices[i]);
  }
  if (!has_own_devices(spec)) {
    return;
  }
  for (size_t i = 0; i < sizeof(kDevices) / sizeof(kDevices[0]); i++) {
    make_device(&kDevices[i]);
  }
  for (size_t i = 0; i < sizeof(kLinks) / sizeof(kLinks[0]); i++) {
    if (symlink(kLinks[i][0], kLinks[i][1]) < 0 && errno != EEXIST) {
      child_fail("symlink", kLinks[i][1], errno);
    }
  }
}

// --- The root

static void pivot(const char* root) {
  if (chdir(root) < 0) {
    child_fail("chdir", root, errno);
  }
  // The old root comes to lie over the new one, and goes.
  if (syscall(SYS_pivot_root, ".", ".") < 0) {
    child_fail("pivot_root", root, errno);
  }
  if (umount2(".", MNT_DETACH) < 0 || chdir("/") < 0) {
    child_fail("leave the old root", root, errno);
  }
}

void rootfs_enter(const struct child* child) {
  const struct container_spec* spec = child->request->container;
  // Nothing that happens here shows outside; what the guest mounts later shows here
  // only when the configuration asks for it.
  const bool follows = (spec->propagation & (MS_SLAVE | MS_SHARED)) != 0;
  if (mount(NULL, "/", NULL, MS_REC | (follows ? MS_SLAVE : MS_PRIVATE), NULL) < 0) {
    child_fail("make the mounts private", NULL, errno);
  }
  const int root = tree_clone(AT_FDCWD, spec->root, kTreeRecursive);
  if (root < 0) {
    child_fail("open_tree", spec->root, errno);
  }
  int* trees = arena_allocate((spec->mount_count + 1) * sizeof(int));
  if (trees == NULL) {
    child_fail("mount", spec->root, ENOMEM);
  }
  for (size_t i = 0; i < spec->mount_count; i++) {
    const struct mount_spec* entry = &spec->mounts[i];
    trees[i] = -1;
    if (entry->bind) {
      trees[i] = tree_clone(AT_FDCWD, entry->source, entry->bind_recursive ? kTreeRecursive : 0);
      if (trees[i] < 0) {
        child_fail("open_tree", entry->source, errno);
      }
    }
  }
  if (tree_attach(root, AT_FDCWD, spec->root) < 0) {
    child_fail("move_mount", spec->root, errno);
  }
  close(root);
  pivot(spec->root);
  mount_all(spec, trees);
  make_devices(spec);
}

// --- What nobody may read or write

static void hide(const char* path) {
  struct stat status;
  if (stat(path, &status) < 0) {
    if (errno == ENOENT || errno == ENOTDIR) {
      return;
    }
    child_fail("stat", path, errno);
  }
  if (S_ISDIR(status.st_mode)) {
    if (mount("tmpfs", path, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=0k") <
        0) {
      child_fail("mask", path, errno);
    }
    return;
  }
  if (mount("/dev/null", path, NULL, MS_BIND, NULL) < 0) {
    child_fail("mask", path, errno);
  }
}

static void make_readonly(const char* path, bool itself) {
  const struct mount_attributes readonly = {.set = ATTRIBUTE_RDONLY};
  const int tree = itself ? -1 : tree_clone(AT_FDCWD, path, kTreeRecursive);
  if (!itself && tree < 0) {
    if (errno == ENOENT || errno == ENOTDIR) {
      return;
    }
    child_fail("open_tree", path, errno);
  }
  if (itself ? tree_set(AT_FDCWD, path, 0, &readonly) < 0
             : tree_set(tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &readonly) < 0 ||
                   tree_attach(tree, AT_FDCWD, path) < 0) {
    child_fail("make read-only", path, errno);
  }
  if (tree >= 0) {
    close(tree);
  }
}

void rootfs_seal(const struct child* child) {
  const struct container_spec* spec = child->request->container;
  for (size_t i = 0; i < spec->mount_count; i++) {
    const struct mount_spec* entry = &spec->mounts[i];
    if (!entry->bind && is_device_directory(entry) && (entry->set & ATTRIBUTE_RDONLY) != 0) {
      make_readonly(entry->target, true);
    }
  }
  for (size_t i = 0; i < spec->readonly_count; i++) {
    make_readonly(spec->readonly[i], false);
  }
  for (size_t i = 0; i < spec->masked_count; i++) {
    hide(spec->masked[i]);
  }
  if (spec->propagation != 0 && mount(NULL, "/", NULL, spec->propagation, NULL) < 0) {
    child_fail("set the propagation", "/", errno);
  }
  if (spec->root_readonly) {
    make_readonly("/", true);
  }
}
