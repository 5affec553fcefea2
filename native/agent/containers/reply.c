// The answers of calls.
#include <stdlib.h>

#include "../arena.h"
#include "../limits.h"
#include "messages.h"
#include "pending.h"
#include "service.h"

struct large_reply {
  ProtobufCMessage* message;
  size_t size;
  struct pending* pending;
};

void reply_empty(const struct call* call) {
  const Empty empty = GRPC__EMPTY__INIT;
  call_reply(call, &empty.base);
}

static void drop(struct large_reply* reply) {
  protobuf_c_message_free_unpacked(reply->message, NULL);
  free(reply);
}

static void on_aborted(struct pending* pending) { drop(pending->owner); }

static void on_drained(struct pending* pending) {
  struct large_reply* reply = pending->owner;
  struct connection* connection = pending->stream.connection;
  if (!connection_has_room(connection, reply->size + AGENT_REPLY_ROOM)) {
    // Asks to be told when there is.
    connection_reserve(connection, AGENT_BLOCK_SIZE + 1);
    return;
  }
  pending->aborted = NULL;
  pending_reply(pending, reply->message);
  drop(reply);
}

// A copy of it outside of the arena, which is the next frame's.
static struct large_reply* hold(const ProtobufCMessage* message, size_t size) {
  struct large_reply* reply = calloc(1, sizeof(*reply));
  uint8_t* packed = malloc(size);
  if (reply != NULL && packed != NULL) {
    protobuf_c_message_pack(message, packed);
    reply->size = size;
    reply->message = protobuf_c_message_unpack(message->descriptor, NULL, size, packed);
  }
  free(packed);
  if (reply != NULL && reply->message == NULL) {
    free(reply);
    return NULL;
  }
  return reply;
}

void reply_large(const struct call* call, const ProtobufCMessage* message) {
  const size_t size = protobuf_c_message_get_packed_size(message);
  if (size > MAX_ANSWER) {
    call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "the answer is too long for one message");
    return;
  }
  if (connection_has_room(call->connection, size + AGENT_REPLY_ROOM)) {
    call_reply(call, message);
    return;
  }
  struct large_reply* reply = hold(message, size);
  if (reply == NULL) {
    call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "no memory for the answer");
    return;
  }
  struct pending* pending = pending_open(call, &reply->pending, reply);
  if (pending == NULL) {
    drop(reply);
    return;
  }
  pending->drained = on_drained;
  pending->aborted = on_aborted;
  on_drained(pending);
}
