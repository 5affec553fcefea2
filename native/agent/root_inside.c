#include "root_inside.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"
#include "mounts.h"

struct inner_mount {
  struct mount_request request;
  // A kernel without this file system is still good for most programs.
  bool optional;
};

static const struct inner_mount kMounts[] = {
    {{"proc", "/proc", "proc", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC}, false},
    {{"devtmpfs", "/dev", "devtmpfs", NULL, MS_NOSUID}, false},
    {{"devpts", "/dev/pts", "devpts", "gid=5,mode=620,ptmxmode=666", MS_NOSUID | MS_NOEXEC}, true},
    {{"shm", "/dev/shm", "tmpfs", "mode=1777", MS_NOSUID | MS_NODEV}, true},
    {{"sysfs", "/sys", "sysfs", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC}, true},
    {{"cgroup2", "/sys/fs/cgroup", "cgroup2", "nsdelegate", MS_NOSUID | MS_NODEV | MS_NOEXEC},
     true},
};

static const char* const kDeviceLinks[][2] = {
    {"/proc/self/fd", "/dev/fd"},
    {"/proc/self/fd/0", "/dev/stdin"},
    {"/proc/self/fd/1", "/dev/stdout"},
    {"/proc/self/fd/2", "/dev/stderr"},
};

// "." and ".." are all there is, or the directory is missing.
static bool is_empty_directory(const char* path) {
  DIR* directory = opendir(path);
  if (directory == NULL) {
    return errno == ENOENT;
  }
  bool empty = true;
  for (const struct dirent* entry; empty && (entry = readdir(directory)) != NULL;) {
    empty = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
  }
  closedir(directory);
  return empty;
}

// Images put directories below /run that their programs need (a database's socket
// directory), and those must not be covered.
static int mount_run(struct text* reason) {
  static const struct mount_request run = {"run", "/run", "tmpfs", "mode=755",
                                           MS_NOSUID | MS_NODEV};
  if (!is_empty_directory(run.target)) {
    return 0;
  }
  const int error = mount_at(&run, reason);
  // A link to nowhere is what the image wants its programs to find.
  return error == ENOENT ? 0 : error;
}

static const struct {
  const char* path;
  const char* value;
} kSettings[] = {
    // Twice a second the kernel asks itself whether to compact memory that nobody asks it for, each
    // time with grace periods of RCU after it: nine tenths of what an idle guest does. It still
    // compacts when an allocation needs it.
    {"/proc/sys/vm/compaction_proactiveness", "0"},
    // What is free goes back to the host by 256 KiB. Of a zone with less than 32 pieces free
    // nothing does: with the 4 MiB that the kernel chooses, a machine of 128 MiB gave nothing
    // back. Its balloon driver sets it, so the command line cannot.
    {"/sys/module/page_reporting/parameters/page_reporting_order", "6"},
};

static void apply_settings(void) {
  for (size_t i = 0; i < sizeof(kSettings) / sizeof(kSettings[0]); i++) {
    const int fd = open(kSettings[i].path, O_WRONLY | O_CLOEXEC);
    // Not every kernel has it.
    if (fd < 0) {
      continue;
    }
    if (write(fd, kSettings[i].value, strlen(kSettings[i].value)) < 0) {
      log_error(kSettings[i].path, errno);
    }
    close(fd);
  }
}

static int mount_inside(struct text* reason) {
  for (size_t i = 0; i < sizeof(kMounts) / sizeof(kMounts[0]); i++) {
    const int error = mount_at(&kMounts[i].request, reason);
    // ENOENT: the directory of one that was left out.
    if (error != 0 && !(kMounts[i].optional && (error == ENODEV || error == ENOENT))) {
      return error;
    }
  }
  for (size_t i = 0; i < sizeof(kDeviceLinks) / sizeof(kDeviceLinks[0]); i++) {
    if (symlink(kDeviceLinks[i][0], kDeviceLinks[i][1]) < 0 && errno != EEXIST) {
      const int error = errno;
      text_failure(reason, "symlink", kDeviceLinks[i][1], error);
      return error;
    }
  }
  apply_settings();
  return mount_run(reason);
}

static int set_hostname(const char* hostname, struct text* reason) {
  if (hostname[0] == '\0' || sethostname(hostname, strlen(hostname)) == 0) {
    return 0;
  }
  const int error = errno;
  text_failure(reason, "sethostname", hostname, error);
  return error;
}

static int raise_loopback(struct text* reason) {
  const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) {
    // A kernel without IP has nothing to raise.
    return 0;
  }
  struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
  int error = 0;
  if (ioctl(fd, SIOCSIFFLAGS, &request) < 0 && errno != ENODEV) {
    error = errno;
    text_failure(reason, "ioctl SIOCSIFFLAGS", "lo", error);
  }
  close(fd);
  return error;
}

static int enter(int fd, const char* path, struct text* reason) {
  if (fchdir(fd) == 0 && chroot(".") == 0) {
    return 0;
  }
  const int error = errno;
  text_failure(reason, "chroot", path, error);
  return error;
}

int root_furnish(const char* root, const char* hostname, struct text* reason) {
  // Inside a chroot the links of an untrusted image cannot name a place outside
  // it, so plain paths are safe. No workload runs yet that could race.
  const int outside = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
  const int inside = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
  int error = 0;
  if (outside < 0 || inside < 0) {
    error = errno;
    text_failure(reason, "open", root, error);
  } else {
    error = enter(inside, root, reason);
    if (error == 0) {
      struct text ignored;
      error = mount_inside(reason);
      const int left = enter(outside, "/", error == 0 ? reason : &ignored);
      error = error != 0 ? error : left;
    }
  }
  if (outside >= 0) {
    close(outside);
  }
  if (inside >= 0) {
    close(inside);
  }
  if (error == 0) {
    error = set_hostname(hostname, reason);
  }
  return error == 0 ? raise_loopback(reason) : error;
}
