// The kernel's random numbers.
#ifndef EMBERVM_AGENT_RANDOM_H_
#define EMBERVM_AGENT_RANDOM_H_

#include <stddef.h>
#include <stdint.h>

#include "text.h"

// Mixes in up to AGENT_MAX_SEED bytes, which count as random, and makes what all CPUs
// derive from the pool new at once: otherwise they would go on with their keys for up
// to a minute. 0, or an errno with the reason.
int random_reseed(const uint8_t* seed, size_t length, struct text* reason);

#endif  // EMBERVM_AGENT_RANDOM_H_
