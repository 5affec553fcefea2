// Layouts and numbers of virtio-mem (virtio 1.2 §5.15).
#ifndef EMBERVM_DEVICES_MEM_PROTOCOL_H_
#define EMBERVM_DEVICES_MEM_PROTOCOL_H_

#include <array>
#include <cstdint>

namespace embervm::devices::mem {

// The driver leaves memory alone that it has not plugged (§5.15.3).
inline constexpr std::uint64_t kFeatureUnpluggedInaccessible = 1U << 1U;

inline constexpr std::uint16_t kRequestQueue = 0;

// The specification asks for a power of two of at least a page. Linux gives memory back by page
// blocks, which are 4 MiB in a kernel without hugetlbfs: of a smaller block it would plug none.
inline constexpr std::uint64_t kBlockBytes = std::uint64_t{4} << 20U;

// The configuration space (§5.15.4).
struct Config {
  std::uint64_t block_size;
  // Only with a feature that is not offered.
  std::uint16_t node_id;
  std::array<std::uint16_t, 3> padding = {};
  std::uint64_t addr;
  std::uint64_t region_size;
  std::uint64_t usable_region_size;
  std::uint64_t plugged_size;
  std::uint64_t requested_size;
};
static_assert(sizeof(Config) == 56);

enum RequestType : std::uint16_t {
  kRequestPlug = 0,
  kRequestUnplug = 1,
  kRequestUnplugAll = 2,
  kRequestState = 3,
};

// §5.15.6: one layout for all of them.
struct Request {
  std::uint16_t type;
  std::array<std::uint16_t, 3> padding = {};
  std::uint64_t addr;
  std::uint16_t nb_blocks;
  std::array<std::uint16_t, 3> padding_2 = {};
};
static_assert(sizeof(Request) == 24);

enum ResponseType : std::uint16_t {
  kResponseAck = 0,
  // Not possible now: more than the device wants plugged.
  kResponseNack = 1,
  kResponseBusy = 2,
  kResponseError = 3,
};

enum BlockState : std::uint16_t {
  kStatePlugged = 0,
  kStateUnplugged = 1,
  kStateMixed = 2,
};

// With a state only where one was asked for.
struct Response {
  std::uint16_t type;
  std::array<std::uint16_t, 3> padding = {};
  std::uint16_t state = 0;
};
static_assert(sizeof(Response) == 10);

}  // namespace embervm::devices::mem

#endif  // EMBERVM_DEVICES_MEM_PROTOCOL_H_
