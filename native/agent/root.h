// The workload's root: an overlay of an image and a writable layer, or a
// directory, with the file systems inside it that programs expect. Workloads run
// chrooted into it; the agent does not.
#ifndef EMBERVM_AGENT_ROOT_H_
#define EMBERVM_AGENT_ROOT_H_

#include <stdbool.h>

#include "messages.h"
#include "text.h"
#include "ttrpc.h"

// Once per boot; after a failure everything is undone and it may be called again.
// 0, or the code of the status with the reason.
int root_set_up(const SetUpRootRequest* request, struct text* reason);

bool root_is_ready(void);
// Of a root that is ready: its path, a descriptor of it, and one of /dev/null.
const char* root_path(void);
int root_fd(void);
int root_null_fd(void);
// The directory of the workload's terminals; -1 when the kernel has none.
int root_terminals_fd(void);

// Takes a directory that is complete as it is. False with errno.
bool root_adopt(const char* path);

// Unmounts, so that the writable layer is clean on its disk.
void root_tear_down(void);

#endif  // EMBERVM_AGENT_ROOT_H_
