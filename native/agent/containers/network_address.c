#include "network_address.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <string.h>
#include <sys/socket.h>

#include "../arena.h"
#include "../text.h"

enum { kV4Size = 4, kV6Size = 16, kBitsPerByte = 8 };

bool address_read(const char* from, Types__IPFamily family, struct address* address) {
  const bool v6 = family == TYPES__IPFAMILY__v6;
  *address = (struct address){.family = v6 ? AF_INET6 : AF_INET, .size = v6 ? kV6Size : kV4Size};
  address->prefix = (uint8_t)(address->size * kBitsPerByte);
  return (v6 || family == TYPES__IPFAMILY__v4) &&
         inet_pton(address->family, from, address->bytes) == 1;
}

bool address_read_prefix(const char* from, struct address* address) {
  uint64_t prefix;
  if (!text_number(from, strlen(from), (uint64_t)address->size * kBitsPerByte, &prefix)) {
    return false;
  }
  address->prefix = (uint8_t)prefix;
  return true;
}

// The kernel wants no bits behind the prefix.
static void clear_rest(struct address* address) {
  for (size_t i = 0; i < address->size; i++) {
    const size_t before = i * kBitsPerByte;
    const size_t kept = address->prefix > before ? address->prefix - before : 0;
    if (kept < kBitsPerByte) {
      address->bytes[i] &= (uint8_t)(0xff00 >> kept);
    }
  }
}

bool address_read_range(const char* from, Types__IPFamily family, struct address* address) {
  char whole[kPrefixText];
  if (from[0] == '\0') {
    from = family == TYPES__IPFAMILY__v6 ? "::/0" : "0.0.0.0/0";
  }
  if (!text_copy(whole, sizeof(whole), from, strlen(from))) {
    return false;
  }
  char* prefix = strchr(whole, '/');
  if (prefix != NULL) {
    *prefix = '\0';
  }
  if (!address_read(whole, family, address) ||
      (prefix != NULL && !address_read_prefix(prefix + 1, address))) {
    return false;
  }
  clear_rest(address);
  return true;
}

static const char kDigits[] = "0123456789abcdef";

static int digit(char from) {
  const char* at = from == '\0' ? NULL : strchr(kDigits, tolower((unsigned char)from));
  return at == NULL ? -1 : (int)(at - kDigits);
}

bool hardware_read(const char* from, uint8_t bytes[kHardwareSize]) {
  if (strlen(from) != kHardwareText - 1) {
    return false;
  }
  for (size_t i = 0; i < kHardwareSize; i++) {
    const char* at = from + i * 3;
    const int high = digit(at[0]);
    const int low = digit(at[1]);
    if (high < 0 || low < 0 || (at[2] != ':' && at[2] != '\0')) {
      return false;
    }
    bytes[i] = (uint8_t)(high << 4 | low);
  }
  return true;
}

char* address_write(uint8_t family, const void* bytes) {
  char* to = arena_allocate(kPrefixText);
  return to == NULL || inet_ntop(family, bytes, to, kAddressText) == NULL ? NULL : to;
}

char* address_write_range(uint8_t family, const void* bytes, uint8_t prefix) {
  char* to = address_write(family, bytes);
  if (to == NULL) {
    return NULL;
  }
  struct text number;
  text_join(&number, "/", NULL);
  text_add_number(&number, prefix);
  const size_t length = strlen(to);
  return text_copy(to + length, kPrefixText - length, number.data, number.length) ? to : NULL;
}

char* hardware_write(const uint8_t* bytes) {
  char* to = arena_allocate(kHardwareText);
  for (size_t i = 0; to != NULL && i < kHardwareSize; i++) {
    to[i * 3] = kDigits[bytes[i] >> 4];
    to[i * 3 + 1] = kDigits[bytes[i] & 0xf];
    to[i * 3 + 2] = i + 1 < kHardwareSize ? ':' : '\0';
  }
  return to;
}
