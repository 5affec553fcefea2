// What a container uses: its control group's numbers, and those of the network
// interfaces that its processes see. All is in the arena.
#ifndef EMBERVM_CONTAINERS_STATS_H_
#define EMBERVM_CONTAINERS_STATS_H_

#include <stdbool.h>

#include "messages.h"

// What the group has no file for is 0 or absent. NULL when there is no memory.
Grpc__CgroupStats* stats_read(int group);

// From the content of /proc/<pid>/net/dev, which is written to. At most
// MAX_STATS_INTERFACES. False when there is no memory.
bool stats_read_interfaces(char* content, Grpc__StatsContainerResponse* response);

#endif  // EMBERVM_CONTAINERS_STATS_H_
