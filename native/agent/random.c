#include "random.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

// A device file of our own: there may be no /dev yet, or one of the workload's. With
// the number of the process, as PID 1 is not the only one that does this.
#define RANDOM_DEVICE "/.random."

enum { kRandomMajor = 1, kRandomMinor = 8, kBitsPerByte = 8 };

// <linux/random.h>, with room.
struct pool_input {
  int entropy_count;
  int buf_size;
  uint8_t bytes[AGENT_MAX_SEED];
};

static int open_random(void) {
  struct text path;
  text_join(&path, RANDOM_DEVICE, NULL);
  text_add_number(&path, (uint64_t)getpid());
  int fd = open(path.data, O_RDWR | O_CLOEXEC);
  if (fd < 0 && errno == ENOENT &&
      mknod(path.data, S_IFCHR | S_IRUSR | S_IWUSR, makedev(kRandomMajor, kRandomMinor)) == 0) {
    fd = open(path.data, O_RDWR | O_CLOEXEC);
    unlink(path.data);
  }
  return fd;
}

int random_reseed(const uint8_t* seed, size_t length, struct text* reason) {
  if (length > AGENT_MAX_SEED) {
    text_failure(reason, "reseed the random pool", NULL, E2BIG);
    return E2BIG;
  }
  struct pool_input input = {.entropy_count = (int)length * kBitsPerByte, .buf_size = (int)length};
  if (length > 0) {
    memcpy(input.bytes, seed, length);
  }
  const int fd = open_random();
  const bool done = fd >= 0 && (length == 0 || ioctl(fd, RNDADDENTROPY, &input) == 0) &&
                    ioctl(fd, RNDRESEEDCRNG) == 0;
  const int error = errno;
  if (fd >= 0) {
    close(fd);
  }
  explicit_bzero(&input, sizeof(input));
  if (!done) {
    text_failure(reason, "reseed the random pool", NULL, error);
    return error;
  }
  return 0;
}
