// Memory for the decoding of one frame: handed out by moving a pointer, taken
// back all at once. It bounds what a hostile message can make protobuf-c
// allocate, and nothing decoded can leak.
#ifndef EMBERVM_AGENT_ARENA_H_
#define EMBERVM_AGENT_ARENA_H_

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>

extern ProtobufCAllocator arena_allocator;

// NULL when the limit or the memory is used up.
void* arena_allocate(size_t size);

// True when an allocation has failed since the last reset.
bool arena_exhausted(void);

// Everything allocated is gone.
void arena_reset(void);

#endif  // EMBERVM_AGENT_ARENA_H_
