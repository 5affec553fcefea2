#include "ttrpc.h"

static uint32_t get_be32(const uint8_t* from) {
  return (uint32_t)from[0] << 24 | (uint32_t)from[1] << 16 | (uint32_t)from[2] << 8 | from[3];
}

static void put_be32(uint8_t* to, uint32_t value) {
  to[0] = (uint8_t)(value >> 24);
  to[1] = (uint8_t)(value >> 16);
  to[2] = (uint8_t)(value >> 8);
  to[3] = (uint8_t)value;
}

struct ttrpc_header ttrpc_header_get(const uint8_t* from) {
  return (struct ttrpc_header){
      .length = get_be32(from),
      .stream = get_be32(from + 4),
      .type = from[8],
      .flags = from[9],
  };
}

void ttrpc_header_put(uint8_t* to, const struct ttrpc_header* header) {
  put_be32(to, header->length);
  put_be32(to + 4, header->stream);
  to[8] = header->type;
  to[9] = header->flags;
}
