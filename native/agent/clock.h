// When the agent started and dialled, for GetInfo.
#ifndef EMBERVM_AGENT_CLOCK_H_
#define EMBERVM_AGENT_CLOCK_H_

#include <stdint.h>

// CLOCK_MONOTONIC in ns.
struct clock_boot {
  uint64_t started_ns;
  uint64_t dialled_ns;
};

extern struct clock_boot clock_boot;

// By a system call and not through the vDSO, whose two pages would have to be
// faulted in first: that costs a guest kernel more.
uint64_t clock_read_ns(void);

#endif  // EMBERVM_AGENT_CLOCK_H_
