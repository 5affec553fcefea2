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
#include "base/unique_fd.h"

namespace embervm {

using GuestAddr = std::uint64_t;

class GuestMemory {
 public:
  struct Region {
    GuestAddr base;
    std::uint64_t size;
    std::byte* host;
  };

  // Part of RAM by its place in bytes(); whole pages.
  struct Extent {
    std::uint64_t offset;
    std::uint64_t length;
  };
  // A file as long as RAM, of which these parts are meant; none: all of it.
  struct Layer {
    UniqueFd file;
    std::vector<Extent> extents;
  };

  // RAM ends at 3 GiB and goes on at 4 GiB: the gap holds the devices' registers,
  // the interrupt controllers and KVM's TSS pages.
  static constexpr GuestAddr kGapStart = 0xc000'0000;
  static constexpr GuestAddr kGapEnd = 0x1'0000'0000;
  static constexpr std::uint64_t kPageSize = 4096;

  // Of where the pluggable region begins and of its length, for a guest that boots with `size`
  // bytes: Linux adds and removes memory by blocks of its own, 128 MiB of them, or up to 2 GiB in
  // a guest that boots with 64 GiB, and cannot use a part of one.
  static std::uint64_t PluggableAlignment(std::uint64_t size);

  // Anonymous private memory, reserved but not committed; `size` is a multiple
  // of the page size. `pluggable` bytes more, a multiple of PluggableAlignment(), are behind it for
  // virtio-mem: mapped like the rest, whatever of them the guest has, so that whoever has
  // been given a slice of it can never fault; they cost nothing until somebody writes there.
  static Result<GuestMemory> Create(std::uint64_t size, std::uint64_t pluggable = 0);
  // The same with the content of files, the first of which is meant whole and each
  // later one lies over those before. Nothing is read now, and nothing is ever
  // written to the files, which must not become shorter while they are mapped:
  // ERR_SNAPSHOT_INVALID when one is too short already, or an extent is not in RAM.
  static Result<GuestMemory> FromFiles(std::uint64_t size, std::vector<Layer> layers,
                                       std::uint64_t pluggable = 0);

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
  // What the guest finds when it boots: all regions but the pluggable one.
  [[nodiscard]] std::span<const Region> boot_regions() const {
    return std::span(regions_).first(regions_.size() - (pluggable_ > 0 ? 1 : 0));
  }
  // Null when there is none.
  [[nodiscard]] const Region* pluggable_region() const {
    return pluggable_ > 0 ? &regions_.back() : nullptr;
  }
  // Without the pluggable region, which comes after it in bytes().
  [[nodiscard]] std::uint64_t boot_size() const { return size() - pluggable_; }
  // All of RAM, region after region: the order of a memory file.
  [[nodiscard]] std::span<std::byte> bytes() const { return mapping_.bytes(); }
  // What FromFiles() took; empty for memory that began as zeroes.
  [[nodiscard]] const std::vector<Layer>& layers() const { return layers_; }
  [[nodiscard]] std::uint64_t size() const { return mapping_.size(); }
  // Bytes that are resident on the host, by mincore(2).
  [[nodiscard]] std::uint64_t ResidentBytes() const;

 private:
  GuestMemory(Mapping mapping, std::uint64_t pluggable);
  Result<> MapLayer(const Layer& layer);

  Mapping mapping_;
  std::uint64_t pluggable_;
  std::vector<Region> regions_;
  std::vector<Layer> layers_;
};

}  // namespace embervm

#endif  // EMBERVM_MEMORY_GUEST_MEMORY_H_
