#include "memory/guest_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/checked.h"

namespace embervm {

namespace {

constexpr std::uint64_t kPageSize = 4096;

Error OutOfRange(GuestAddr addr, std::uint64_t len) {
  return Error("ERR_GUEST_ADDRESS", "guest range is not RAM")
      .With("address", static_cast<std::int64_t>(addr))
      .With("length", static_cast<std::int64_t>(len));
}

}  // namespace

Result<GuestMemory> GuestMemory::Create(std::uint64_t size) {
  if (size == 0 || size % kPageSize != 0) {
    return std::unexpected(
        Error("ERR_INVALID_CONFIG", "guest memory must be a positive multiple of 4096 bytes")
            .With("bytes", static_cast<std::int64_t>(size)));
  }
  EMBERVM_TRY_ASSIGN(Mapping mapping, Mapping::Create(size, PROT_READ | PROT_WRITE,
                                                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                                                      -1, 0, "guest memory"));
  // A core dump of the host process must not carry guests' memory, and a child
  // that Node forks has no use for a copy of it.
  ::madvise(mapping.data(), mapping.size(), MADV_DONTDUMP);
  ::madvise(mapping.data(), mapping.size(), MADV_DONTFORK);

  const std::uint64_t low = std::min(size, kGapStart);
  std::vector<Region> regions{{.base = 0, .size = low, .host = mapping.data()}};
  if (size > low) {
    regions.push_back({.base = kGapEnd, .size = size - low, .host = mapping.data() + low});
  }
  return GuestMemory(std::move(mapping), std::move(regions));
}

std::optional<std::span<std::byte>> GuestMemory::Slice(GuestAddr addr, std::uint64_t len) const {
  for (const Region& region : regions_) {
    if (addr < region.base) break;
    const std::uint64_t offset = addr - region.base;
    if (RangeFits(offset, len, region.size)) return std::span(region.host + offset, len);
  }
  return std::nullopt;
}

Result<> GuestMemory::Write(GuestAddr addr, std::span<const std::byte> bytes) const {
  const auto slice = Slice(addr, bytes.size());
  if (!slice) return std::unexpected(OutOfRange(addr, bytes.size()));
  std::ranges::copy(bytes, slice->begin());
  return {};
}

Result<> GuestMemory::Read(GuestAddr addr, std::span<std::byte> bytes) const {
  const auto slice = Slice(addr, bytes.size());
  if (!slice) return std::unexpected(OutOfRange(addr, bytes.size()));
  std::ranges::copy(*slice, bytes.begin());
  return {};
}

Result<> GuestMemory::Fill(GuestAddr addr, std::uint64_t len, std::byte value) const {
  const auto slice = Slice(addr, len);
  if (!slice) return std::unexpected(OutOfRange(addr, len));
  std::ranges::fill(*slice, value);
  return {};
}

std::uint64_t GuestMemory::ResidentBytes() const {
  // In pieces, so that a 512 GiB guest does not need a 128 MiB vector.
  constexpr std::size_t kPagesAtOnce = 65536;
  std::vector<unsigned char> residency(kPagesAtOnce);
  const std::span<std::byte> bytes = mapping_.bytes();
  std::uint64_t resident = 0;
  for (std::size_t offset = 0; offset < bytes.size(); offset += kPagesAtOnce * kPageSize) {
    const std::size_t length = std::min(bytes.size() - offset, kPagesAtOnce * kPageSize);
    if (::mincore(bytes.subspan(offset).data(), length, residency.data()) != 0) return 0;
    const auto pages = std::span(residency).first(length / kPageSize);
    resident += static_cast<std::uint64_t>(
        std::ranges::count_if(pages, [](unsigned char page) { return (page & 1U) != 0; }));
  }
  return resident * kPageSize;
}

}  // namespace embervm
