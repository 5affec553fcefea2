// The workload's own init: PID 1 of a PID namespace in which all later processes
// start too. The agent stays PID 1 of the machine.
#ifndef EMBERVM_AGENT_INIT_H_
#define EMBERVM_AGENT_INIT_H_

#include <stdbool.h>
#include <sys/types.h>

#include "spawn.h"

enum init_state { INIT_NONE, INIT_RUNNING, INIT_ENDED };

enum init_state init_state(void);
// The process that spawn_process started as init. False with errno.
bool init_adopt(pid_t pid, const char* program);
void init_reaped(pid_t pid);
// Sets the namespaces of a process that is to start beside the init.
void init_join(struct spawn_request* request);
// Tells a systemd to end its services and itself. False where every process is to
// be told for itself.
bool init_shut_down(void);

#endif  // EMBERVM_AGENT_INIT_H_
