// GuestMemory: the only door to guest RAM. Addresses come from the guest, so
// every access names a whole range and gets a checked span or an error.
#ifndef EMBERVM_MEMORY_GUEST_MEMORY_H_
#define EMBERVM_MEMORY_GUEST_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/mapping.h"
#include "base/result.h"

namespace embervm {

using GuestAddr = std::uint64_t;

class GuestMemory {
 public:
  struct Region {
    GuestAddr base;
    std::uint64_t size;
    std::byte* host;
  };

  // RAM ends at 3 GiB and goes on at 4 GiB: the gap holds the devices' registers,
  // the interrupt controllers and KVM's TSS pages.
  static constexpr GuestAddr kGapStart = 0xc000'0000;
  static constexpr GuestAddr kGapEnd = 0x1'0000'0000;

  // Anonymous private memory, reserved but not committed; `size` is a multiple
  // of the page size.
  static Result<GuestMemory> Create(std::uint64_t size);

  GuestMemory(GuestMemory&&) = default;
  GuestMemory& operator=(GuestMemory&&) = default;

  // The host view of [addr, addr + len), or nothing when any byte of it is not
  // RAM. A range never spans two regions. len 0 gives an empty span.
  [[nodiscard]] std::optional<std::span<std::byte>> Slice(GuestAddr addr, std::uint64_t len) const;

  // Copies in and out by whole ranges; the error names the range.
  Result<> Write(GuestAddr addr, std::span<const std::byte> bytes) const;
  Result<> Read(GuestAddr addr, std::span<std::byte> bytes) const;
  Result<> Fill(GuestAddr addr, std::uint64_t len, std::byte value) const;

  [[nodiscard]] const std::vector<Region>& regions() const { return regions_; }
  [[nodiscard]] std::uint64_t size() const { return mapping_.size(); }
  // Bytes that are resident on the host, by mincore(2).
  [[nodiscard]] std::uint64_t ResidentBytes() const;

 private:
  GuestMemory(Mapping mapping, std::vector<Region> regions)
      : mapping_(std::move(mapping)), regions_(std::move(regions)) {}

  Mapping mapping_;
  std::vector<Region> regions_;
};

}  // namespace embervm

#endif  // EMBERVM_MEMORY_GUEST_MEMORY_H_
