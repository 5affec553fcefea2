// Numbers that bound what the container service holds for the host.
#ifndef EMBERVM_CONTAINERS_BOUNDS_H_
#define EMBERVM_CONTAINERS_BOUNDS_H_

#include <stddef.h>

// Names of containers and processes, with their NUL.
#define CONTAINER_ID_SIZE 129

// Entries of one config.json.
#define MAX_MOUNTS 512
#define MAX_DEVICES 256
#define MAX_PATHS 512
#define MAX_ARGUMENTS 65536
#define MAX_GROUPS 1024
#define MAX_HOOKS 64

// Bytes that one ReadStdout gives at most, and all WriteStdin together may hold.
#define READ_CHUNK ((size_t)60 * 1024)
#define STDIN_BUDGET ((size_t)16 * 1024 * 1024)

// Bytes of one answer: when a connection says that it has room, such a one fits.
#define MAX_ANSWER ((size_t)80 * 1024)
// What the message around one long field takes at most.
#define MAX_ENVELOPE 64

// What one StatsContainer tells of.
#define MAX_STATS_DEVICES 64
#define MAX_STATS_INTERFACES 64

// Of one ListProcesses, if the answer has room for them.
#define MAX_LISTED_PROCESSES 8192

// Containers that ran out of memory and of which nobody was told.
#define MAX_OOM_EVENTS 64

// Sections of memory that one MemHotplugByProbe may name.
#define MAX_PROBES 4096

// Of the guest's network, to set and to tell of.
#define MAX_INTERFACES 256
#define MAX_ADDRESSES 64
#define MAX_ROUTES 512
#define MAX_NEIGHBORS 1024

// After its end a process's output is read for so long.
#define OUTPUT_GRACE_MS 500u

#endif  // EMBERVM_CONTAINERS_BOUNDS_H_
