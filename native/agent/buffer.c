#include "buffer.h"

#include <stdlib.h>
#include <string.h>

#include "limits.h"

enum { kStaticBlocks = 2, kKeptBlocks = 6 };

static uint8_t static_blocks[kStaticBlocks][AGENT_BLOCK_SIZE] __attribute__((aligned(4096)));

static struct {
  uint8_t* kept[kKeptBlocks];
  size_t count;
  bool primed;
  // Bytes of all buffers that outgrew a block.
  size_t large_bytes;
} pool;

static bool is_static(const uint8_t* block) {
  return (uintptr_t)block >= (uintptr_t)static_blocks[0] &&
         (uintptr_t)block < (uintptr_t)(static_blocks + kStaticBlocks);
}

static uint8_t* block_take(void) {
  if (!pool.primed) {
    pool.primed = true;
    for (size_t i = 0; i < kStaticBlocks; i++) {
      pool.kept[pool.count++] = static_blocks[i];
    }
  }
  return pool.count > 0 ? pool.kept[--pool.count] : malloc(AGENT_BLOCK_SIZE);
}

static void block_give(uint8_t* block) {
  if (pool.count < kKeptBlocks) {
    pool.kept[pool.count++] = block;
    return;
  }
  if (!is_static(block)) {
    free(block);
    return;
  }
  // A static block cannot be freed: it takes the place of one that can. There is
  // one, as fewer static blocks than places exist.
  for (size_t i = 0; i < pool.count; i++) {
    if (!is_static(pool.kept[i])) {
      free(pool.kept[i]);
      pool.kept[i] = block;
      return;
    }
  }
}

size_t buffer_room(const struct buffer* buffer) {
  const size_t capacity = buffer->data == NULL ? AGENT_BLOCK_SIZE : buffer->capacity;
  return capacity - buffer->length;
}

uint8_t* buffer_reserve(struct buffer* buffer, size_t size) {
  if (buffer->data == NULL) {
    if (size > AGENT_BLOCK_SIZE) {
      return NULL;
    }
    buffer->data = block_take();
    if (buffer->data == NULL) {
      return NULL;
    }
    buffer->head = 0;
    buffer->length = 0;
    buffer->capacity = AGENT_BLOCK_SIZE;
  }
  if (size > buffer->capacity - buffer->length) {
    return NULL;
  }
  if (size > buffer->capacity - buffer->length - buffer->head) {
    memmove(buffer->data, buffer->data + buffer->head, buffer->length);
    buffer->head = 0;
  }
  return buffer->data + buffer->head + buffer->length;
}

void buffer_commit(struct buffer* buffer, size_t size) { buffer->length += size; }

void buffer_consume(struct buffer* buffer, size_t size) {
  buffer->head += size;
  buffer->length -= size;
  if (buffer->length == 0) {
    buffer_release(buffer);
  }
}

bool buffer_grow(struct buffer* buffer, size_t wanted) {
  size_t capacity = buffer->capacity > wanted / 2 ? wanted : buffer->capacity * 2;
  if (capacity <= buffer->capacity) {
    return true;
  }
  const bool is_block = buffer->capacity == AGENT_BLOCK_SIZE;
  const size_t held = is_block ? 0 : buffer->capacity;
  if (capacity > AGENT_LARGE_FRAME_BUDGET - (pool.large_bytes - held)) {
    return false;
  }
  uint8_t* data = malloc(capacity);
  if (data == NULL) {
    return false;
  }
  memcpy(data, buffer->data + buffer->head, buffer->length);
  if (is_block) {
    block_give(buffer->data);
  } else {
    free(buffer->data);
  }
  pool.large_bytes += capacity - held;
  buffer->data = data;
  buffer->head = 0;
  buffer->capacity = capacity;
  return true;
}

void buffer_release(struct buffer* buffer) {
  if (buffer->data != NULL) {
    if (buffer->capacity == AGENT_BLOCK_SIZE) {
      block_give(buffer->data);
    } else {
      pool.large_bytes -= buffer->capacity;
      free(buffer->data);
    }
  }
  *buffer = (struct buffer){0};
}
