// The program that runs containers (containers/): started when the host asks for it,
// a child of PID 1 in the machine's own root.
#ifndef EMBERVM_AGENT_CONTAINER_SERVICE_H_
#define EMBERVM_AGENT_CONTAINER_SERVICE_H_

#include <stdint.h>
#include <sys/types.h>

#include "text.h"

// 0, also when it runs already; or an errno with the reason.
int container_service_start(uint32_t port, struct text* reason);
void container_service_reaped(pid_t pid);

#endif  // EMBERVM_AGENT_CONTAINER_SERVICE_H_
