#include "clock.h"

#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct clock_boot clock_boot;

uint64_t clock_read_ns(void) {
  struct timespec now;
  if (syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now) < 0) {
    return 0;
  }
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
