// Byte buffers of a bounded size. Their memory comes from a small pool of equal
// blocks, last used first: an idle connection holds none, and the pages that are
// already mapped serve whichever connection is busy. (A fresh page costs a guest
// kernel some thousand instructions.)
#ifndef EMBERVM_AGENT_BUFFER_H_
#define EMBERVM_AGENT_BUFFER_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Zeroed it is an empty buffer without memory.
struct buffer {
  uint8_t* data;
  size_t head;
  size_t length;
  size_t capacity;
};

// The bytes held.
static inline const uint8_t* buffer_bytes(const struct buffer* buffer) {
  return buffer->data + buffer->head;
}

// How many bytes buffer_reserve can give without growing.
size_t buffer_room(const struct buffer* buffer);

// Room for `size` contiguous bytes behind the content, or NULL when they do not
// fit or no memory is left. Nothing is held until buffer_commit.
uint8_t* buffer_reserve(struct buffer* buffer, size_t size);
void buffer_commit(struct buffer* buffer, size_t size);

// Drops bytes at the front. An empty buffer gives its memory back.
void buffer_consume(struct buffer* buffer, size_t size);

// Enlarges a full buffer towards `wanted` bytes, at most doubling it, so that
// memory follows what has arrived and not what was announced. False when the
// budget or the memory is used up.
bool buffer_grow(struct buffer* buffer, size_t wanted);

void buffer_release(struct buffer* buffer);

#endif  // EMBERVM_AGENT_BUFFER_H_
