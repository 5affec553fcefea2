// The clean end of the machine: SIGTERM to everybody, a grace, SIGKILL, sync,
// unmount, power off. Driven by events; the agent keeps serving meanwhile.
#ifndef EMBERVM_AGENT_POWEROFF_H_
#define EMBERVM_AGENT_POWEROFF_H_

#include <stdbool.h>
#include <stdint.h>

// Begins once what is queued for the host has been written. A second call while
// it runs changes nothing. Only for PID 1: it signals every process there is.
void power_off_begin(uint32_t grace_ms);

bool power_off_has_begun(void);

// Called when no child is left.
void power_off_children_gone(void);

#endif  // EMBERVM_AGENT_POWEROFF_H_
