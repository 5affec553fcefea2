#include "arena.h"

#include <stdalign.h>
#include <stdint.h>
#include <stdlib.h>

#include "limits.h"

// A stdin message of full size, twice decoded (envelope and content), fits.
enum { kFixedSize = 160 * 1024 };

struct overflow {
  struct overflow* next;
  alignas(max_align_t) uint8_t data[];
};

static alignas(max_align_t) uint8_t fixed[kFixedSize];

static struct {
  size_t used;
  size_t overflow_bytes;
  struct overflow* overflow;
  bool exhausted;
} arena;

void* arena_allocate(size_t size) {
  const size_t mask = alignof(max_align_t) - 1;
  if (size > AGENT_ARENA_LIMIT) {
    arena.exhausted = true;
    return NULL;
  }
  const size_t aligned = (size + mask) & ~mask;
  if (aligned <= kFixedSize - arena.used) {
    void* at = fixed + arena.used;
    arena.used += aligned;
    return at;
  }
  const size_t whole = sizeof(struct overflow) + aligned;
  struct overflow* block = whole <= AGENT_ARENA_LIMIT - arena.overflow_bytes ? malloc(whole) : NULL;
  if (block == NULL) {
    arena.exhausted = true;
    return NULL;
  }
  arena.overflow_bytes += whole;
  block->next = arena.overflow;
  arena.overflow = block;
  return block->data;
}

bool arena_exhausted(void) { return arena.exhausted; }

void arena_reset(void) {
  while (arena.overflow != NULL) {
    struct overflow* block = arena.overflow;
    arena.overflow = block->next;
    free(block);
  }
  arena.used = 0;
  arena.overflow_bytes = 0;
  arena.exhausted = false;
}

static void* allocate(void* data, size_t size) {
  (void)data;
  return arena_allocate(size);
}

static void release(void* data, void* pointer) {
  (void)data;
  (void)pointer;
}

ProtobufCAllocator arena_allocator = {.alloc = allocate, .free = release, .allocator_data = NULL};
