// The guest as a machine: its CPUs and its memory. The functions take the directories
// of sysfs, so that others can stand in for them.
#ifndef EMBERVM_CONTAINERS_MACHINE_H_
#define EMBERVM_CONTAINERS_MACHINE_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../text.h"

#define MACHINE_CPUS "/sys/devices/system/cpu"
#define MACHINE_MEMORY "/sys/devices/system/memory"

// Each is 0 or a code with the reason.

// Brings CPUs on line that are off line: `count` of them, or all for 0.
int machine_online_cpus(const char* cpus, uint32_t count, struct text* reason);
// Brings all memory on line.
int machine_online_memory(const char* memory, struct text* reason);
// Tells the kernel of memory at these addresses, one section each.
int machine_probe_memory(const char* memory, const uint64_t* addresses, size_t count,
                         struct text* reason);

bool machine_has_probe(const char* memory);
// In bytes; 0 when the kernel cannot have more memory while it runs.
uint64_t machine_memory_section(const char* memory);

#endif  // EMBERVM_CONTAINERS_MACHINE_H_
