// PID 1 of the guest that is booted beside others: it says that it is alive, again and again, and
// with `bench=blk` on the kernel's command line moves data to and from its disk once. Between its
// lines it waits in user space, by the CPU's own counter, which needs no timer and no kernel.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>
#include <x86intrin.h>

enum {
  kBlockBytes = 64 * 1024,
  kBlocks = 64,
  // About a millisecond and a third of a second of the CPUs of today.
  kShortWait = 3 * 1000 * 1000,
  kLongWait = 300 * kShortWait,
};

static void Wait(uint64_t cycles) {
  const uint64_t end = __rdtsc() + cycles;
  while (__rdtsc() < end) {
  }
}

static bool Say(const char* line) {
  const size_t length = strlen(line);
  return write(STDOUT_FILENO, line, length) == (ssize_t)length;
}

static bool MoveBlocks(void) {
  static _Alignas(4096) char block[kBlockBytes];
  if (mount("dev", "/dev", "devtmpfs", 0, NULL) != 0) {
    return false;
  }
  const int disk = open("/dev/vda", O_RDWR | O_DIRECT | O_CLOEXEC);
  if (disk == -1) {
    return false;
  }
  bool good = true;
  for (int i = 0; good && i < kBlocks; i++) {
    good = pwrite(disk, block, sizeof(block), (off_t)i * kBlockBytes) == kBlockBytes;
  }
  good = good && fsync(disk) == 0;
  for (int i = 0; good && i < kBlocks; i++) {
    good = pread(disk, block, sizeof(block), (off_t)i * kBlockBytes) == kBlockBytes;
  }
  close(disk);
  return good;
}

int main(void) {
  const char* mode = getenv("bench");
  if (mode != NULL && strcmp(mode, "blk") == 0) {
    // Whoever watches reads its counters in the pauses.
    Say("ready\n");
    Wait(kLongWait);
    const bool moved = MoveBlocks();
    Say(moved ? "moved\n" : "failed\n");
    Wait(kLongWait);
  }
  for (;;) {
    Say("alive\n");
    Wait(kShortWait);
  }
}
