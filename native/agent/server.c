#include "server.h"

#include <string.h>

#include "arena.h"
#include "limits.h"
#include "text.h"
#include "ttrpc.pb-c.h"

// Tag and length of a bytes field: one byte for fields below 16, and a varint
// that holds AGENT_IO_CHUNK in three.
enum { kBytesTag = 1, kBytesLengthMax = 3, kBytesPrefix = kBytesTag + kBytesLengthMax };
enum { kWireLengthDelimited = 2, kTagShift = 3 };
// The payload of a ttrpc Response: its number, and room for a tag and a length.
enum { kPayloadField = 2, kPayloadPrefix = 6 };
// An exit event and the end of its stream always fit behind a chunk of output.
enum { kTrailerRoom = 256 };

static bool put_frame(struct connection* connection, uint32_t stream, enum ttrpc_type type,
                      uint8_t flags, const ProtobufCMessage* message) {
  const size_t length = message == NULL ? 0 : protobuf_c_message_get_packed_size(message);
  uint8_t* at = connection_reserve(connection, TTRPC_HEADER_SIZE + length);
  if (at == NULL) {
    return false;
  }
  const struct ttrpc_header header = {
      .length = (uint32_t)length, .stream = stream, .type = (uint8_t)type, .flags = flags};
  ttrpc_header_put(at, &header);
  if (message != NULL) {
    protobuf_c_message_pack(message, at + TTRPC_HEADER_SIZE);
  }
  connection_commit(connection, TTRPC_HEADER_SIZE + length);
  return true;
}

static void put_response(struct connection* connection, uint32_t stream,
                         Embervm__Ttrpc__Response* response) {
  if (!put_frame(connection, stream, TTRPC_RESPONSE, 0, &response->base) && !connection->closed) {
    // A client that is owed an answer and never gets it would wait for ever.
    connection_close(connection);
  }
}

static void put_status(struct connection* connection, uint32_t stream, enum ttrpc_code code,
                       const char* message) {
  struct text bounded;
  text_join(&bounded, message, NULL);
  Embervm__Ttrpc__Status status = EMBERVM__TTRPC__STATUS__INIT;
  status.code = (int32_t)code;
  status.message = bounded.data;
  Embervm__Ttrpc__Response response = EMBERVM__TTRPC__RESPONSE__INIT;
  response.status = &status;
  put_response(connection, stream, &response);
}

void call_fail(const struct call* call, enum ttrpc_code code, const char* message) {
  put_status(call->connection, call->stream, code, message);
}

void call_reply(const struct call* call, const ProtobufCMessage* message) {
  const size_t length = protobuf_c_message_get_packed_size(message);
  Embervm__Ttrpc__Response response = EMBERVM__TTRPC__RESPONSE__INIT;
  if (length > 0) {
    response.payload.data = arena_allocate(length);
    if (response.payload.data == NULL) {
      call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "no memory for the response");
      return;
    }
    response.payload.len = protobuf_c_message_pack(message, response.payload.data);
  }
  put_response(call->connection, call->stream, &response);
}

static void* decode(const ProtobufCMessageDescriptor* descriptor, const uint8_t* bytes,
                    size_t length, enum ttrpc_code* code, const char** message) {
  void* decoded = protobuf_c_message_unpack(descriptor, &arena_allocator, length, bytes);
  if (decoded == NULL) {
    *code = arena_exhausted() ? TTRPC_RESOURCE_EXHAUSTED : TTRPC_INVALID_ARGUMENT;
    *message = arena_exhausted() ? "no memory to decode the message" : "unmarshal request error";
  }
  return decoded;
}

void* call_decode(const struct call* call, const ProtobufCMessageDescriptor* descriptor) {
  enum ttrpc_code code = TTRPC_INTERNAL;
  const char* message = NULL;
  void* decoded = decode(descriptor, call->payload, call->length, &code, &message);
  if (decoded == NULL) {
    call_fail(call, code, message);
  }
  return decoded;
}

void* stream_decode(struct stream* stream, const ProtobufCMessageDescriptor* descriptor,
                    const uint8_t* bytes, size_t length) {
  enum ttrpc_code code = TTRPC_INTERNAL;
  const char* message = NULL;
  void* decoded = decode(descriptor, bytes, length, &code, &message);
  if (decoded == NULL) {
    stream_fail(stream, code, message);
  }
  return decoded;
}

bool stream_open(struct stream* stream, const struct call* call,
                 const struct stream_operations* operations) {
  struct connection* connection = call->connection;
  if (connection->stream_count >= AGENT_MAX_STREAMS_PER_CONNECTION) {
    call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "too many streams on this connection");
    return false;
  }
  *stream = (struct stream){
      .operations = operations,
      .connection = connection,
      .next = connection->streams,
      .id = call->stream,
      .open = true,
      .remote_closed = call->remote_closed,
  };
  connection->streams = stream;
  connection->stream_count++;
  return true;
}

static void stream_unlink(struct stream* stream) {
  struct connection* connection = stream->connection;
  for (struct stream** at = &connection->streams; *at != NULL; at = &(*at)->next) {
    if (*at == stream) {
      *at = stream->next;
      connection->stream_count--;
      break;
    }
  }
  stream->open = false;
}

bool stream_send(struct stream* stream, const ProtobufCMessage* message) {
  return put_frame(stream->connection, stream->id, TTRPC_DATA, 0, message);
}

uint8_t* stream_reserve_bytes(struct stream* stream, size_t size) {
  const size_t prefix = TTRPC_HEADER_SIZE + kBytesPrefix;
  uint8_t* at = connection_reserve(stream->connection, prefix + size + kTrailerRoom);
  return at == NULL ? NULL : at + prefix;
}

void stream_send_bytes(struct stream* stream, uint32_t field, uint8_t* bytes, size_t length) {
  if (length == 0) {
    connection_commit(stream->connection, 0);
    return;
  }
  uint8_t* frame = bytes - TTRPC_HEADER_SIZE - kBytesPrefix;
  uint8_t* at = frame + TTRPC_HEADER_SIZE;
  *at++ = (uint8_t)(field << kTagShift | kWireLengthDelimited);
  for (size_t rest = length; rest > 0; rest >>= 7) {
    *at++ = (uint8_t)((rest & 0x7f) | (rest > 0x7f ? 0x80 : 0));
  }
  memmove(at, bytes, length);
  const size_t whole = (size_t)(at - frame) + length;
  const struct ttrpc_header header = {.length = (uint32_t)(whole - TTRPC_HEADER_SIZE),
                                      .stream = stream->id,
                                      .type = TTRPC_DATA,
                                      .flags = 0};
  ttrpc_header_put(frame, &header);
  connection_commit(stream->connection, whole);
}

bool stream_finish(struct stream* stream) {
  if (!put_frame(stream->connection, stream->id, TTRPC_DATA, TTRPC_REMOTE_CLOSED | TTRPC_NO_DATA,
                 NULL)) {
    return false;
  }
  stream_unlink(stream);
  return true;
}

bool stream_reply(struct stream* stream, const ProtobufCMessage* message) {
  const size_t length = protobuf_c_message_get_packed_size(message);
  const size_t whole = TTRPC_HEADER_SIZE + kPayloadPrefix + length;
  uint8_t* frame = connection_reserve(stream->connection, whole);
  if (frame == NULL) {
    return false;
  }
  // The envelope by hand: the answer may come when no frame is being handled, and
  // the arena is another frame's then.
  uint8_t* at = frame + TTRPC_HEADER_SIZE;
  if (length > 0) {
    *at++ = kPayloadField << kTagShift | kWireLengthDelimited;
    for (size_t rest = length; rest > 0; rest >>= 7) {
      *at++ = (uint8_t)((rest & 0x7f) | (rest > 0x7f ? 0x80 : 0));
    }
    at += protobuf_c_message_pack(message, at);
  }
  const size_t used = (size_t)(at - frame);
  const struct ttrpc_header header = {.length = (uint32_t)(used - TTRPC_HEADER_SIZE),
                                      .stream = stream->id,
                                      .type = TTRPC_RESPONSE,
                                      .flags = 0};
  ttrpc_header_put(frame, &header);
  connection_commit(stream->connection, used);
  stream_unlink(stream);
  return true;
}

void stream_fail(struct stream* stream, enum ttrpc_code code, const char* message) {
  struct connection* connection = stream->connection;
  const uint32_t id = stream->id;
  stream_unlink(stream);
  stream->operations->aborted(stream);
  put_status(connection, id, code, message);
}

static const struct method* find_method(const char* service, const char* name, bool* known) {
  *known = false;
  for (const struct method* method = server_methods; method->service != NULL; method++) {
    if (strcmp(method->service, service) == 0) {
      *known = true;
      if (strcmp(method->name, name) == 0) {
        return method;
      }
    }
  }
  return NULL;
}

static void on_request(struct connection* connection, const struct ttrpc_header* header,
                       const uint8_t* data) {
  struct call call = {
      .connection = connection,
      .stream = header->stream,
      .remote_closed = (header->flags & TTRPC_REMOTE_CLOSED) != 0,
      .payload = data,
      .length = header->length,
  };
  if (header->stream <= connection->last_stream) {
    call_fail(&call, TTRPC_INVALID_ARGUMENT, "StreamID cannot be re-used and must increment");
    return;
  }
  connection->last_stream = header->stream;

  const Embervm__Ttrpc__Request* request = call_decode(&call, &embervm__ttrpc__request__descriptor);
  if (request == NULL) {
    return;
  }
  bool known;
  const struct method* method = find_method(request->service, request->method, &known);
  if (method == NULL) {
    struct text message;
    text_join(&message, known ? "unknown method " : "unknown service ",
              known ? request->method : request->service, NULL);
    call_fail(&call, TTRPC_UNIMPLEMENTED, message.data);
    return;
  }
  call.payload = request->payload.data;
  call.length = request->payload.len;
  call.timeout_ns = request->timeout_nano;
  method->handle(&call);
}

static struct stream* find_stream(struct connection* connection, uint32_t id) {
  struct stream* stream = connection->streams;
  while (stream != NULL && stream->id != id) {
    stream = stream->next;
  }
  return stream;
}

static void on_data(struct connection* connection, const struct ttrpc_header* header,
                    const uint8_t* data) {
  struct stream* stream = find_stream(connection, header->stream);
  if (stream == NULL) {
    put_status(connection, header->stream, TTRPC_INVALID_ARGUMENT, "StreamID is no longer active");
    return;
  }
  const bool has_data = (header->flags & TTRPC_NO_DATA) == 0;
  const bool closes = (header->flags & TTRPC_REMOTE_CLOSED) != 0;
  if (stream->remote_closed) {
    stream_fail(stream, TTRPC_INVALID_ARGUMENT, "data handling error: the stream is half closed");
    return;
  }
  if (closes && header->length > 0) {
    stream_fail(stream, TTRPC_INVALID_ARGUMENT, "data close message cannot include data");
    return;
  }
  // Closing without no-data is a close, not an empty message before it.
  if (has_data && !closes) {
    stream->operations->message(stream, data, header->length);
  }
  if (closes && stream->open) {
    stream->remote_closed = true;
    stream->operations->remote_closed(stream);
  }
}

void server_frame(struct connection* connection, const struct ttrpc_header* header,
                  const uint8_t* data) {
  if ((header->stream & 1) == 0) {
    put_status(connection, header->stream, TTRPC_INVALID_ARGUMENT,
               "StreamID must be odd for client initiated streams");
  } else if (header->type == TTRPC_REQUEST) {
    on_request(connection, header, data);
  } else if (header->type == TTRPC_DATA) {
    on_data(connection, header, data);
  }
  // Other types are ignored, for the protocol's future.
  arena_reset();
}

void server_frame_refused(struct connection* connection, const struct ttrpc_header* header,
                          bool for_memory) {
  struct text message;
  text_clear(&message);
  text_add(&message, "message length ");
  text_add_number(&message, header->length);
  if (for_memory) {
    text_add(&message, ": no memory for it");
  } else {
    text_add(&message, " exceed maximum message size of ");
    text_add_number(&message, TTRPC_MAX_DATA);
  }
  struct stream* stream =
      header->type == TTRPC_DATA ? find_stream(connection, header->stream) : NULL;
  if (stream != NULL) {
    stream_fail(stream, TTRPC_RESOURCE_EXHAUSTED, message.data);
  } else {
    put_status(connection, header->stream, TTRPC_RESOURCE_EXHAUSTED, message.data);
  }
}

void server_connection_drained(struct connection* connection) {
  for (struct stream *stream = connection->streams, *next; stream != NULL; stream = next) {
    next = stream->next;
    // An earlier one may have ended the connection, and with it this stream.
    if (stream->open) {
      stream->operations->drained(stream);
    }
  }
}

void server_connection_closed(struct connection* connection) {
  while (connection->streams != NULL) {
    struct stream* stream = connection->streams;
    stream_unlink(stream);
    stream->operations->aborted(stream);
  }
}
