// Layouts and numbers of virtio-balloon (virtio 1.2 §5.5).
#ifndef EMBERVM_DEVICES_BALLOON_PROTOCOL_H_
#define EMBERVM_DEVICES_BALLOON_PROTOCOL_H_

#include <cstddef>
#include <cstdint>

namespace embervm::devices::balloon {

// Feature bits (§5.5.3).
inline constexpr std::uint64_t kFeatureStats = 1U << 1U;
inline constexpr std::uint64_t kFeatureDeflateOnOom = 1U << 2U;
inline constexpr std::uint64_t kFeatureReporting = 1U << 5U;

// Queues of a driver that takes every feature. The specification numbers the last one 4, after
// one for hints that we do not offer; Linux numbers the queues that it uses without a gap (and
// so do other monitors), so that the last one comes earlier without statistics.
inline constexpr std::uint16_t kInflateQueue = 0;
inline constexpr std::uint16_t kDeflateQueue = 1;
inline constexpr std::uint16_t kStatsQueue = 2;
inline constexpr std::uint16_t kReportingQueue = 3;

// A page of the balloon, whatever the guest's own pages are (§5.5.6).
inline constexpr std::uint64_t kPageSize = 4096;

// The configuration space without what belongs to features that are not offered (§5.5.4).
struct Config {
  // How many pages the balloon should have.
  std::uint32_t num_pages;
  // How many it has, says the driver.
  std::uint32_t actual;
};
static_assert(sizeof(Config) == 8);

// One statistic (§5.5.6.3): 2 bytes of tag and 8 of value, packed.
inline constexpr std::size_t kStatBytes = 10;
inline constexpr std::size_t kStatValueOffset = 2;

enum StatTag : std::uint16_t {
  kStatSwapIn = 0,
  kStatSwapOut = 1,
  kStatMajorFaults = 2,
  kStatMinorFaults = 3,
  kStatFree = 4,
  kStatTotal = 5,
  kStatAvailable = 6,
  kStatCaches = 7,
};

}  // namespace embervm::devices::balloon

#endif  // EMBERVM_DEVICES_BALLOON_PROTOCOL_H_
