#include "pending.h"

#include <stdlib.h>

#include "../container.h"
#include "messages.h"

enum { kNsPerMs = 1000000 };

static void destroy(struct loop_garbage* garbage) {
  struct pending* pending = CONTAINER_OF(garbage, struct pending, garbage);
  free(pending->data);
  free(pending);
}

static void retire(struct pending* pending) {
  for (struct pending** at = pending->list; *at != NULL; at = &(*at)->next) {
    if (*at == pending) {
      *at = pending->next;
      break;
    }
  }
  loop_timer_stop(&pending->deadline);
  loop_discard(&pending->garbage);
}

static void on_message(struct stream* stream, const uint8_t* bytes, size_t length) {
  (void)bytes;
  (void)length;
  stream_fail(stream, TTRPC_INVALID_ARGUMENT, "the call is unary: no data may follow it");
}

static void on_remote_closed(struct stream* stream) { (void)stream; }

static void on_drained(struct stream* stream) {
  struct pending* pending = CONTAINER_OF(stream, struct pending, stream);
  if (pending->drained != NULL) {
    pending->drained(pending);
  }
}

static void on_aborted(struct stream* stream) {
  struct pending* pending = CONTAINER_OF(stream, struct pending, stream);
  retire(pending);
  if (pending->aborted != NULL) {
    pending->aborted(pending);
  }
}

static const struct stream_operations kOperations = {
    .message = on_message,
    .remote_closed = on_remote_closed,
    .drained = on_drained,
    .aborted = on_aborted,
};

static void on_deadline(struct loop_timer* timer) {
  struct pending* pending = CONTAINER_OF(timer, struct pending, deadline);
  stream_fail(&pending->stream, TTRPC_DEADLINE_EXCEEDED, "context deadline exceeded");
}

struct pending* pending_open(const struct call* call, struct pending** list, void* owner) {
  struct pending* pending = calloc(1, sizeof(*pending));
  if (pending == NULL) {
    call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "no memory for another call");
    return NULL;
  }
  if (!stream_open(&pending->stream, call, &kOperations)) {
    free(pending);
    return NULL;
  }
  pending->garbage.destroy = destroy;
  pending->deadline.fire = on_deadline;
  pending->list = list;
  pending->owner = owner;
  while (*list != NULL) {
    list = &(*list)->next;
  }
  *list = pending;
  if (call->timeout_ns > 0) {
    loop_timer_start(&pending->deadline, (uint64_t)call->timeout_ns / kNsPerMs + 1);
  }
  return pending;
}

void pending_reply(struct pending* pending, const ProtobufCMessage* message) {
  if (stream_reply(&pending->stream, message)) {
    retire(pending);
  } else if (!pending->stream.connection->closed) {
    // A client that is owed an answer and never gets it would wait for ever.
    connection_close(pending->stream.connection);
  }
}

void pending_reply_empty(struct pending* pending) {
  const Empty empty = GRPC__EMPTY__INIT;
  pending_reply(pending, &empty.base);
}

void pending_fail(struct pending* pending, enum ttrpc_code code, const char* message) {
  stream_fail(&pending->stream, code, message);
}
