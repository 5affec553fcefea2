// What a workload finds in its root beside the image's files: kernel file
// systems, device links, the host name and the loopback interface.
#ifndef EMBERVM_AGENT_ROOT_INSIDE_H_
#define EMBERVM_AGENT_ROOT_INSIDE_H_

#include "text.h"

// 0 or an errno with the reason. An empty hostname leaves it as it is.
int root_furnish(const char* root, const char* hostname, struct text* reason);

#endif  // EMBERVM_AGENT_ROOT_INSIDE_H_
