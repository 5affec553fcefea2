// BlockOptions: what a drive is, and how it is used.
#ifndef EMBERVM_DEVICES_BLOCK_OPTIONS_H_
#define EMBERVM_DEVICES_BLOCK_OPTIONS_H_

#include <cstdint>
#include <string>

#include "base/token_bucket.h"

namespace embervm::devices {

enum class BlockCache : std::uint8_t {
  // A write may stay in the host's memory until the guest asks for a flush.
  kWriteback,
  // It is on the host's disk before the guest is told so.
  kWritethrough,
  // As kWriteback, but past the host's page cache: O_DIRECT.
  kDirect,
};

// How a file holds a disk. Never guessed: a guest can write any header into its own disk.
enum class BlockFormat : std::uint8_t {
  kRaw,
  // Without a backing file: see Qcow2Disk.
  kQcow2,
  // Flat, with its files beside the descriptor.
  kVmdk,
};

struct BlockOptions {
  // What the guest reads by GET_ID: at most 20 bytes.
  std::string id;
  std::string path;
  BlockFormat format = BlockFormat::kRaw;
  bool read_only = false;
  BlockCache cache = BlockCache::kWriteback;
  // Of what is read and written together.
  RateLimit bytes = {};
  // Of requests of any kind.
  RateLimit operations = {};
};

}  // namespace embervm::devices

#endif  // EMBERVM_DEVICES_BLOCK_OPTIONS_H_
