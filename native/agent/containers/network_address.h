// Addresses as the messages write them.
#ifndef EMBERVM_CONTAINERS_NETWORK_ADDRESS_H_
#define EMBERVM_CONTAINERS_NETWORK_ADDRESS_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "messages.h"

enum { kHardwareSize = 6, kHardwareText = 18, kAddressText = 46, kPrefixText = 50 };

struct address {
  uint8_t family;
  uint8_t size;
  // Bits of the prefix.
  uint8_t prefix;
  uint8_t bytes[16];
};

// "10.0.0.1" or "fe80::1", of the family. The prefix is that of one address.
bool address_read(const char* from, Types__IPFamily family, struct address* address);
// "24": the length of its prefix.
bool address_read_prefix(const char* from, struct address* address);
// "10.0.0.0/8"; empty is every address.
bool address_read_range(const char* from, Types__IPFamily family, struct address* address);
// "02:00:00:00:00:01"
bool hardware_read(const char* from, uint8_t bytes[kHardwareSize]);

// Strings in the arena. NULL when there is no memory.
char* address_write(uint8_t family, const void* bytes);
char* address_write_range(uint8_t family, const void* bytes, uint8_t prefix);
char* hardware_write(const uint8_t* bytes);

#endif  // EMBERVM_CONTAINERS_NETWORK_ADDRESS_H_
