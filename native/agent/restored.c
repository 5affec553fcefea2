#include "restored.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "identity.h"
#include "root.h"
#include "ttrpc.h"

// A device file of the agent's own: there may be no /dev yet, or one of the workload's.
#define RANDOM_DEVICE "/.random"

enum {
  kMinSeed = 32,
  kMaxSeed = 512,
  kMaxHostname = 64,
  kRandomMajor = 1,
  kRandomMinor = 8,
  kBitsPerByte = 8,
};

static const uint64_t kNsPerSecond = 1000000000u;

// <linux/random.h>, with room.
struct pool_input {
  int entropy_count;
  int buf_size;
  uint8_t bytes[kMaxSeed];
};

static int open_random(void) {
  int fd = open(RANDOM_DEVICE, O_RDWR | O_CLOEXEC);
  if (fd < 0 && errno == ENOENT &&
      mknod(RANDOM_DEVICE, S_IFCHR | S_IRUSR | S_IWUSR, makedev(kRandomMajor, kRandomMinor)) == 0) {
    fd = open(RANDOM_DEVICE, O_RDWR | O_CLOEXEC);
    unlink(RANDOM_DEVICE);
  }
  return fd;
}

static int reseed(const ProtobufCBinaryData* seed, struct text* reason) {
  struct pool_input input = {.entropy_count = (int)seed->len * kBitsPerByte,
                             .buf_size = (int)seed->len};
  memcpy(input.bytes, seed->data, seed->len);
  const int fd = open_random();
  // The second makes what all CPUs derive from the pool new at once: otherwise they
  // would go on with the keys of the snapshot for up to a minute.
  const bool done =
      fd >= 0 && ioctl(fd, RNDADDENTROPY, &input) == 0 && ioctl(fd, RNDRESEEDCRNG) == 0;
  const int error = errno;
  if (fd >= 0) {
    close(fd);
  }
  explicit_bzero(&input, sizeof(input));
  if (!done) {
    text_failure(reason, "reseed the random pool", NULL, error);
    return TTRPC_INTERNAL;
  }
  return 0;
}

int restored_apply(const RestoredRequest* request, struct text* reason) {
  const size_t hostname_length = strlen(request->hostname);
  if (request->random_seed.len < kMinSeed || request->random_seed.len > kMaxSeed) {
    text_join(reason, "random_seed must have 32 to 512 bytes", NULL);
    return TTRPC_INVALID_ARGUMENT;
  }
  if (hostname_length > kMaxHostname) {
    text_join(reason, "the hostname is over 64 bytes", NULL);
    return TTRPC_INVALID_ARGUMENT;
  }
  // First: whatever starts now draws from it.
  const int code = reseed(&request->random_seed, reason);
  if (code != 0) {
    return code;
  }
  const struct timespec now = {.tv_sec = (time_t)(request->realtime_ns / kNsPerSecond),
                               .tv_nsec = (long)(request->realtime_ns % kNsPerSecond)};
  if (request->realtime_ns != 0 && clock_settime(CLOCK_REALTIME, &now) < 0) {
    text_failure(reason, "set the clock", NULL, errno);
    return TTRPC_INTERNAL;
  }
  if (hostname_length > 0 && sethostname(request->hostname, hostname_length) < 0) {
    text_failure(reason, "sethostname", NULL, errno);
    return TTRPC_INTERNAL;
  }
  identity_renew(root_fd());
  return 0;
}
