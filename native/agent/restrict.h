// Fewer privileges for a process that is about to execve.
#ifndef EMBERVM_AGENT_RESTRICT_H_
#define EMBERVM_AGENT_RESTRICT_H_

#include <stdbool.h>

// Of the calling process, which may share the agent's memory: raw system calls
// alone, and no state. False with errno.
bool restrict_privileges(void);

#endif  // EMBERVM_AGENT_RESTRICT_H_
