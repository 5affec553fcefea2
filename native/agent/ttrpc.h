// The ttrpc frame (containerd/ttrpc PROTOCOL.md): a header of ten bytes, then
// data. Numbers are big-endian.
#ifndef EMBERVM_AGENT_TTRPC_H_
#define EMBERVM_AGENT_TTRPC_H_

#include <stddef.h>
#include <stdint.h>

#define TTRPC_HEADER_SIZE ((size_t)10)
#define TTRPC_MAX_DATA ((size_t)4 << 20)

enum ttrpc_type { TTRPC_REQUEST = 1, TTRPC_RESPONSE = 2, TTRPC_DATA = 3 };

enum ttrpc_flag { TTRPC_REMOTE_CLOSED = 0x01, TTRPC_REMOTE_OPEN = 0x02, TTRPC_NO_DATA = 0x04 };

// google.rpc.Code, as far as it is used.
enum ttrpc_code {
  TTRPC_INVALID_ARGUMENT = 3,
  TTRPC_DEADLINE_EXCEEDED = 4,
  TTRPC_NOT_FOUND = 5,
  TTRPC_ALREADY_EXISTS = 6,
  TTRPC_RESOURCE_EXHAUSTED = 8,
  TTRPC_FAILED_PRECONDITION = 9,
  TTRPC_UNIMPLEMENTED = 12,
  TTRPC_INTERNAL = 13,
  TTRPC_UNAVAILABLE = 14,
};

struct ttrpc_header {
  uint32_t length;
  uint32_t stream;
  uint8_t type;
  uint8_t flags;
};

struct ttrpc_header ttrpc_header_get(const uint8_t* from);
void ttrpc_header_put(uint8_t* to, const struct ttrpc_header* header);

#endif  // EMBERVM_AGENT_TTRPC_H_
