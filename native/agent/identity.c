#include "identity.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "inroot.h"
#include "log.h"

// Of <linux/mount.h>, which cannot be included beside <sys/mount.h>.
#ifndef OPEN_TREE_CLONE
#define OPEN_TREE_CLONE 1
#define OPEN_TREE_CLOEXEC O_CLOEXEC
#endif
#ifndef MOVE_MOUNT_F_EMPTY_PATH
#define MOVE_MOUNT_F_EMPTY_PATH 4
#endif
#ifndef MOVE_MOUNT_T_EMPTY_PATH
#define MOVE_MOUNT_T_EMPTY_PATH 0x40
#endif

#define OWN_BOOT_ID "/boot_id"
#define BOOT_ID "/proc/sys/kernel/random/boot_id"
#define MACHINE_ID "/etc/machine-id"

enum {
  kIdBytes = 16,
  kDigitsPerByte = 2,
  kIdDigits = kIdBytes * kDigitsPerByte,
  kUuidHyphens = 4,
  kBitsPerDigit = 4,
  kDigitMask = 0xf,
  // RFC 9562 §4.1 and §4.2.
  kVersionByte = 6,
  kVariantByte = 8,
};

// A UUID of version 4, which machine-id(5) asks for, too. Never waits.
static bool make_id(uint8_t id[kIdBytes]) {
  if (getrandom(id, kIdBytes, GRND_NONBLOCK) != kIdBytes) {
    return false;
  }
  id[kVersionByte] = (uint8_t)((id[kVersionByte] & 0x0f) | 0x40);
  id[kVariantByte] = (uint8_t)((id[kVariantByte] & 0x3f) | 0x80);
  return true;
}

// Returns how many characters it has written.
static size_t write_digits(char* to, const uint8_t id[kIdBytes], bool hyphens) {
  static const char digits[] = "0123456789abcdef";
  size_t length = 0;
  for (size_t i = 0; i < kIdBytes; i++) {
    // 8-4-4-4-12 digits.
    if (hyphens && (i == 4 || i == 6 || i == 8 || i == 10)) {
      to[length++] = '-';
    }
    to[length++] = digits[id[i] >> kBitsPerDigit];
    to[length++] = digits[id[i] & kDigitMask];
  }
  return length;
}

static bool write_boot_id(int flags) {
  uint8_t id[kIdBytes];
  char line[kIdDigits + kUuidHyphens + 1];
  if (!make_id(id)) {
    return false;
  }
  const size_t length = write_digits(line, id, true);
  line[length] = '\n';
  const int fd = open(OWN_BOOT_ID, O_WRONLY | O_CLOEXEC | flags, 0444);
  if (fd < 0) {
    return false;
  }
  // In place, and always as long: nobody ever reads half of one.
  const bool done = pwrite(fd, line, sizeof(line), 0) == (ssize_t)sizeof(line);
  close(fd);
  return done;
}

void identity_give_boot_id(int root_fd) {
  if (!write_boot_id(O_CREAT)) {
    return;
  }
  const int tree =
      (int)syscall(SYS_open_tree, AT_FDCWD, OWN_BOOT_ID, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
  const int place = tree < 0 ? -1 : open_in_root(root_fd, BOOT_ID, O_PATH);
  if (place >= 0 && syscall(SYS_move_mount, tree, "", place, "",
                            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0) {
    log_error("move_mount(" BOOT_ID ")", errno);
  }
  if (place >= 0) {
    close(place);
  }
  if (tree >= 0) {
    close(tree);
  }
}

static bool is_digit(char byte) {
  return (byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'f');
}

// A file of 32 digits, and perhaps a line feed.
static bool has_machine_id(int fd) {
  struct stat status;
  char line[kIdDigits + 2];
  if (fstat(fd, &status) < 0 || !S_ISREG(status.st_mode)) {
    return false;
  }
  const ssize_t length = pread(fd, line, sizeof(line), 0);
  if (length != kIdDigits && !(length == kIdDigits + 1 && line[kIdDigits] == '\n')) {
    return false;
  }
  for (size_t i = 0; i < kIdDigits; i++) {
    if (!is_digit(line[i])) {
      return false;
    }
  }
  return true;
}

static void renew_machine_id(int root_fd) {
  // Whatever the workload has put there must not hold up the agent.
  const int flags = O_NONBLOCK | O_NOCTTY;
  const int old = open_in_root(root_fd, MACHINE_ID, O_RDONLY | flags);
  if (old < 0) {
    return;
  }
  const bool wanted = has_machine_id(old);
  close(old);
  uint8_t id[kIdBytes];
  char line[kIdDigits];
  if (!wanted || !make_id(id)) {
    return;
  }
  write_digits(line, id, false);
  // On a root that is read-only it stays what it was.
  const int fd = open_in_root(root_fd, MACHINE_ID, O_WRONLY | flags);
  if (fd < 0) {
    return;
  }
  if (pwrite(fd, line, sizeof(line), 0) < 0) {
    log_error("write(" MACHINE_ID ")", errno);
  }
  close(fd);
}

void identity_renew(int root_fd) {
  if (root_fd < 0) {
    return;
  }
  write_boot_id(0);
  renew_machine_id(root_fd);
}
