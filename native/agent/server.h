// The ttrpc server: what frames mean, the rules for stream ids, and the way from
// a service and method name to its handler.
#ifndef EMBERVM_AGENT_SERVER_H_
#define EMBERVM_AGENT_SERVER_H_

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "connection.h"
#include "ttrpc.h"

// One request: who asked, and what.
struct call {
  struct connection* connection;
  uint32_t stream;
  int64_t timeout_ns;
  // The client has said that no data will follow.
  bool remote_closed;
  const uint8_t* payload;
  size_t length;
};

// A streaming call that is open. Embedded in whatever serves it.
struct stream {
  const struct stream_operations* operations;
  struct connection* connection;
  struct stream* next;
  uint32_t id;
  bool open;
  bool remote_closed;
};

struct stream_operations {
  // One message of the client. The bytes live until the call returns.
  void (*message)(struct stream* stream, const uint8_t* bytes, size_t length);
  // The client sends no more.
  void (*remote_closed)(struct stream* stream);
  // The connection has room again after a send that found none.
  void (*drained)(struct stream* stream);
  // The stream has ended early: connection lost or stream_fail. It is closed.
  void (*aborted)(struct stream* stream);
};

struct method {
  const char* service;
  const char* name;
  void (*handle)(const struct call* call);
};

// All methods, ended by a NULL service.
extern const struct method server_methods[];

// --- For handlers

void call_reply(const struct call* call, const ProtobufCMessage* message);
void call_fail(const struct call* call, enum ttrpc_code code, const char* message);

// Decodes in the arena. NULL when the call was answered with an error instead.
void* call_decode(const struct call* call, const ProtobufCMessageDescriptor* descriptor);

// Opens the stream of a call. False when the call was answered with an error.
bool stream_open(struct stream* stream, const struct call* call,
                 const struct stream_operations* operations);
// Decodes a message of the client in the arena. NULL when the stream has failed.
void* stream_decode(struct stream* stream, const ProtobufCMessageDescriptor* descriptor,
                    const uint8_t* bytes, size_t length);

// Sends a message; false when there is no room now.
bool stream_send(struct stream* stream, const ProtobufCMessage* message);
// The same for a message that is one bytes field, whose content is put in place:
// reserve, fill up to `size` bytes, send what was filled (possibly none).
uint8_t* stream_reserve_bytes(struct stream* stream, size_t size);
void stream_send_bytes(struct stream* stream, uint32_t field, uint8_t* bytes, size_t length);

// Ends the stream with success; false when there is no room now.
bool stream_finish(struct stream* stream);
// Answers a call with one message that has been open as a stream meanwhile; false
// when there is no room now.
bool stream_reply(struct stream* stream, const ProtobufCMessage* message);
// Ends the stream with a status, then calls `aborted`.
void stream_fail(struct stream* stream, enum ttrpc_code code, const char* message);

// --- For the connection

void server_frame(struct connection* connection, const struct ttrpc_header* header,
                  const uint8_t* data);
// A frame was thrown away: over the protocol's limit, or no memory for it.
void server_frame_refused(struct connection* connection, const struct ttrpc_header* header,
                          bool for_memory);
void server_connection_drained(struct connection* connection);
void server_connection_closed(struct connection* connection);

#endif  // EMBERVM_AGENT_SERVER_H_
