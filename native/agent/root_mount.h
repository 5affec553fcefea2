// Mounts of the caller's choice inside the workload's root: shared directories and
// single files of them, disks, memory.
#ifndef EMBERVM_AGENT_ROOT_MOUNT_H_
#define EMBERVM_AGENT_ROOT_MOUNT_H_

#include "messages.h"
#include "text.h"

// What is wrong with the request itself; NULL: nothing.
const char* root_mount_check(const MountInRootRequest* request);

// 0, or an errno with the reason. A workload may run already; its links cannot lead out
// of the root.
int root_mount(const MountInRootRequest* request, struct text* reason);

#endif  // EMBERVM_AGENT_ROOT_MOUNT_H_
