#include "hotplug.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "mounts.h"

#define DRIVER "/sys/bus/platform/drivers/virtio-mmio"
#define DEVICES "/sys/bus/platform/devices/virtio-mmio."
#define CPUS "/sys/devices/system/cpu/cpu"
// A device file of the agent's own: a workload's /dev is not to be trusted.
#define CLAIM_DEVICE "/.claimed"

enum { kNumberSize = 32 };

static void close_fd(const int* fd) {
  if (*fd >= 0) {
    close(*fd);
  }
}

static void close_directory(DIR* const* directory) {
  if (*directory != NULL) {
    closedir(*directory);
  }
}

// The agent's own view: the workload's may have something else there.
static int mount_sysfs(struct text* reason) {
  if (access("/sys/bus", F_OK) == 0) {
    return 0;
  }
  const struct mount_request request = {.source = "sysfs",
                                        .target = "/sys",
                                        .fstype = "sysfs",
                                        .flags = MS_NOSUID | MS_NODEV | MS_NOEXEC};
  return mount_at(&request, reason);
}

static int write_file(const char* path, const char* value, struct text* reason) {
  __attribute__((cleanup(close_fd))) const int fd = open(path, O_WRONLY | O_CLOEXEC);
  const char* call = "open";
  if (fd >= 0) {
    call = "write";
    if (write(fd, value, strlen(value)) >= 0) {
      return 0;
    }
  }
  const int error = errno;
  text_failure(reason, call, path, error);
  return error;
}

static void slot_name(struct text* name, const char* before, uint32_t slot) {
  text_join(name, before, NULL);
  text_add_number(name, slot);
}

// Adds to `path` a slash and the first entry that begins with `prefix`. 0 or an errno.
static int descend(struct text* path, const char* prefix) {
  __attribute__((cleanup(close_directory))) DIR* const directory = opendir(path->data);
  if (directory == NULL) {
    return errno;
  }
  const struct dirent* entry;
  while ((entry = readdir(directory)) != NULL) {
    if (entry->d_name[0] != '.' && strncmp(entry->d_name, prefix, strlen(prefix)) == 0) {
      text_add(path, "/");
      text_add(path, entry->d_name);
      return path->cut ? ENAMETOOLONG : 0;
    }
  }
  return ENOENT;
}

// The directory of the slot's disk in sysfs. ENOENT when it has none.
static int find_disk(uint32_t slot, struct text* path) {
  slot_name(path, DEVICES, slot);
  int error = descend(path, "virtio");
  if (error == 0) {
    error = descend(path, "block");
  }
  return error == 0 ? descend(path, "") : error;
}

int slot_bind(uint32_t slot, struct text* node, struct text* reason) {
  text_clear(node);
  int error = mount_sysfs(reason);
  if (error != 0) {
    return error;
  }
  struct text name;
  slot_name(&name, "virtio-mmio.", slot);
  error = write_file(DRIVER "/bind", name.data, reason);
  if (error != 0) {
    return error;
  }
  struct text disk;
  error = find_disk(slot, &disk);
  if (error == 0) {
    text_join(node, "/dev", strrchr(disk.data, '/'), NULL);
  } else if (error != ENOENT) {
    text_failure(reason, "readdir", disk.data, error);
    return error;
  }
  return 0;
}

// The number of a disk as sysfs writes it, "253:16".
static int read_number(const struct text* disk, dev_t* number) {
  struct text path;
  text_join(&path, disk->data, "/dev", NULL);
  __attribute__((cleanup(close_fd))) const int fd = open(path.data, O_RDONLY | O_CLOEXEC);
  char bytes[kNumberSize];
  const ssize_t got = fd < 0 ? -1 : read(fd, bytes, sizeof(bytes));
  if (got < 0) {
    return errno;
  }
  const char* const end = bytes + got;
  const char* const colon = memchr(bytes, ':', (size_t)got);
  const char* const newline = memchr(bytes, '\n', (size_t)got);
  uint64_t major_number;
  uint64_t minor_number;
  if (colon == NULL || newline == NULL || newline >= end || newline < colon ||
      !text_number(bytes, (size_t)(colon - bytes), UINT32_MAX, &major_number) ||
      !text_number(colon + 1, (size_t)(newline - colon - 1), UINT32_MAX, &minor_number)) {
    return EINVAL;
  }
  *number = makedev((unsigned)major_number, (unsigned)minor_number);
  return 0;
}

// A mount holds its disk exclusively, and so do loop devices and the like.
static int check_unclaimed(const struct text* disk) {
  dev_t number = 0;
  int error = read_number(disk, &number);
  if (error != 0) {
    return error;
  }
  if (mknod(CLAIM_DEVICE, S_IFBLK | S_IRUSR, number) < 0) {
    return errno;
  }
  __attribute__((cleanup(close_fd))) const int fd =
      open(CLAIM_DEVICE, O_RDONLY | O_EXCL | O_CLOEXEC);
  error = fd < 0 ? errno : 0;
  unlink(CLAIM_DEVICE);
  return error;
}

int slot_unbind(uint32_t slot, struct text* reason) {
  int error = mount_sysfs(reason);
  if (error != 0) {
    return error;
  }
  struct text disk;
  error = find_disk(slot, &disk);
  if (error == 0) {
    error = check_unclaimed(&disk);
    if (error != 0) {
      text_failure(reason, "open exclusively", disk.data, error);
      return error;
    }
  }
  struct text name;
  slot_name(&name, "virtio-mmio.", slot);
  return write_file(DRIVER "/unbind", name.data, reason);
}

static void cpu_path(struct text* path, uint32_t cpu) {
  text_join(path, CPUS, NULL);
  text_add_number(path, cpu);
  text_add(path, "/online");
}

int cpus_set_online(uint32_t count, struct text* reason) {
  int error = mount_sysfs(reason);
  struct text path;
  // The first CPU is always on. Those that exist have consecutive numbers.
  for (uint32_t cpu = 1; error == 0; cpu++) {
    cpu_path(&path, cpu);
    if (access(path.data, F_OK) < 0) {
      if (cpu >= count) {
        return 0;
      }
      text_join(reason, "the guest has no CPU ", NULL);
      text_add_number(reason, cpu);
      return ENODEV;
    }
    error = write_file(path.data, cpu < count ? "1" : "0", reason);
  }
  return error;
}
