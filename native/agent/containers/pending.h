// Calls whose answer waits for something. Each is in the list of what it waits for,
// until it is answered, its deadline passes or its connection ends.
#ifndef EMBERVM_CONTAINERS_PENDING_H_
#define EMBERVM_CONTAINERS_PENDING_H_

#include <stddef.h>
#include <stdint.h>

#include "../loop.h"
#include "../server.h"

struct pending {
  struct loop_garbage garbage;
  struct stream stream;
  struct loop_timer deadline;
  struct pending** list;
  struct pending* next;
  void* owner;
  // The connection has room again. May be NULL.
  void (*drained)(struct pending* pending);
  // It ended without an answer. May be NULL.
  void (*aborted)(struct pending* pending);
  // Of a read: how much; of a write: what is left.
  uint32_t length;
  uint8_t* data;
  size_t at;
  size_t size;
};

// At the end of the list. NULL when the call was answered with an error.
struct pending* pending_open(const struct call* call, struct pending** list, void* owner);

// Answers it, and it is gone.
void pending_reply(struct pending* pending, const ProtobufCMessage* message);
void pending_reply_empty(struct pending* pending);
void pending_fail(struct pending* pending, enum ttrpc_code code, const char* message);

#endif  // EMBERVM_CONTAINERS_PENDING_H_
