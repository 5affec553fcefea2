#include "memory/guest_memory.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>

#include "base/checked.h"
#include "memory/page_map.h"

namespace embervm {

namespace {

// A mapping per extent would cost more than it saves for small ones, and a process
// has 65530 in all (vm.max_map_count).
constexpr std::uint64_t kMinMappedExtent = std::uint64_t{64} * 1024;
constexpr std::size_t kMaxMappedExtents = 1024;

Error OutOfRange(GuestAddr addr, std::uint64_t len) {
  return Error("ERR_GUEST_ADDRESS", "guest range is not RAM")
      .With("address", static_cast<std::int64_t>(addr))
      .With("length", static_cast<std::int64_t>(len));
}

Error BadMemoryFile(std::string message) {
  return Error("ERR_SNAPSHOT_INVALID", std::move(message));
}

// Both together.
Result<std::uint64_t> CheckSize(std::uint64_t size, std::uint64_t pluggable) {
  if (size == 0 || size % GuestMemory::kPageSize != 0) {
    return std::unexpected(
        Error("ERR_INVALID_CONFIG", "guest memory must be a positive multiple of 4096 bytes")
            .With("bytes", static_cast<std::int64_t>(size)));
  }
  const auto all = CheckedAdd(size, pluggable);
  if (all && pluggable % GuestMemory::PluggableAlignment(size) == 0) return *all;
  return std::unexpected(
      Error("ERR_INVALID_CONFIG", "pluggable memory must be made of whole blocks of the guest's")
          .With("bytes", static_cast<std::int64_t>(pluggable)));
}

GuestAddr EndOf(const GuestMemory::Region& region) { return region.base + region.size; }

// A page past the end of a mapped file is a SIGBUS for whoever touches it.
Result<> CheckFile(const GuestMemory::Layer& layer, std::uint64_t size) {
  struct stat status{};
  if (::fstat(layer.file.get(), &status) != 0) {
    return std::unexpected(
        Error::FromErrno("ERR_SNAPSHOT_INVALID", "fstat", errno, "the memory file"));
  }
  if (!S_ISREG(status.st_mode) || static_cast<std::uint64_t>(status.st_size) < size) {
    return std::unexpected(
        BadMemoryFile("the memory file of the snapshot is shorter than the guest's memory")
            .With("bytes", status.st_size)
            .With("expectedBytes", static_cast<std::int64_t>(size)));
  }
  for (const GuestMemory::Extent& extent : layer.extents) {
    if (extent.length == 0 || extent.offset % GuestMemory::kPageSize != 0 ||
        extent.length % GuestMemory::kPageSize != 0 ||
        !RangeFits(extent.offset, extent.length, size)) {
      return std::unexpected(BadMemoryFile("a part of the snapshot's memory is not in RAM"));
    }
  }
  return {};
}

Result<> ReadInto(std::span<std::byte> bytes, int fd, std::uint64_t offset) {
  while (!bytes.empty()) {
    const ssize_t got = ::pread(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      return std::unexpected(
          Error::FromErrno("ERR_SNAPSHOT_INVALID", "pread", errno, "the memory file"));
    }
    if (got == 0) return std::unexpected(BadMemoryFile("the memory file has become shorter"));
    bytes = bytes.subspan(static_cast<std::size_t>(got));
    offset += static_cast<std::uint64_t>(got);
  }
  return {};
}

}  // namespace

std::uint64_t GuestMemory::PluggableAlignment(std::uint64_t size) {
  constexpr std::uint64_t kMiB = std::uint64_t{1} << 20U;
  constexpr std::uint64_t kLargeGuest = std::uint64_t{64} << 30U;
  const std::uint64_t gap = size > kGapStart ? kGapEnd - kGapStart : 0;
  return size >= kLargeGuest - gap ? 2048 * kMiB : 128 * kMiB;
}

Result<GuestMemory> GuestMemory::Create(std::uint64_t size, std::uint64_t pluggable) {
  EMBERVM_TRY_ASSIGN(const std::uint64_t all, CheckSize(size, pluggable));
  EMBERVM_TRY_ASSIGN(Mapping mapping, Mapping::Create(all, PROT_READ | PROT_WRITE,
                                                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                                                      -1, 0, "guest memory"));
  return GuestMemory(std::move(mapping), pluggable);
}

Result<GuestMemory> GuestMemory::FromFiles(std::uint64_t size, std::vector<Layer> layers,
                                           std::uint64_t pluggable) {
  EMBERVM_TRY_ASSIGN(const std::uint64_t all, CheckSize(size, pluggable));
  if (layers.empty() || !layers.front().extents.empty()) {
    return std::unexpected(BadMemoryFile("the snapshot has no memory file that is whole"));
  }
  for (const Layer& layer : layers) EMBERVM_TRY(CheckFile(layer, all));
  EMBERVM_TRY_ASSIGN(Mapping mapping,
                     Mapping::Create(all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE,
                                     layers.front().file.get(), 0, "guest memory of a snapshot"));
  GuestMemory memory(std::move(mapping), pluggable);
  for (const Layer& layer : std::span(layers).subspan(1)) EMBERVM_TRY(memory.MapLayer(layer));
  memory.layers_ = std::move(layers);
  return memory;
}

GuestMemory::GuestMemory(Mapping mapping, std::uint64_t pluggable)
    : mapping_(std::move(mapping)), pluggable_(pluggable) {
  // A core dump of the host process must not carry guests' memory, and a child
  // that Node forks has no use for a copy of it.
  ::madvise(mapping_.data(), mapping_.size(), MADV_DONTDUMP);
  ::madvise(mapping_.data(), mapping_.size(), MADV_DONTFORK);

  const std::uint64_t low = std::min(boot_size(), kGapStart);
  regions_.push_back({.base = 0, .size = low, .host = mapping_.data()});
  if (boot_size() > low) {
    regions_.push_back({.base = kGapEnd, .size = boot_size() - low, .host = mapping_.data() + low});
  }
  if (pluggable_ == 0) return;
  const std::uint64_t alignment = PluggableAlignment(boot_size());
  const GuestAddr end = std::max(EndOf(regions_.back()), kGapEnd);
  regions_.push_back({.base = (end + alignment - 1) / alignment * alignment,
                      .size = pluggable_,
                      .host = mapping_.data() + boot_size()});
}

Result<> GuestMemory::MapLayer(const Layer& layer) {
  std::size_t mapped = 0;
  for (const Extent& extent : layer.extents) {
    const std::span<std::byte> place = bytes().subspan(extent.offset, extent.length);
    if (extent.length < kMinMappedExtent || mapped == kMaxMappedExtents) {
      EMBERVM_TRY(ReadInto(place, layer.file.get(), extent.offset));
      continue;
    }
    ++mapped;
    // Replaces part of our own mapping, which takes it down with the rest.
    if (::mmap(place.data(), place.size(), PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED, layer.file.get(),
               static_cast<off_t>(extent.offset)) == MAP_FAILED) {
      return std::unexpected(
          Error::FromErrno("ERR_OUT_OF_MEMORY", "mmap", errno, "guest memory of a snapshot"));
    }
    ::madvise(place.data(), place.size(), MADV_DONTDUMP);
    ::madvise(place.data(), place.size(), MADV_DONTFORK);
  }
  return {};
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
  // In pieces, so that a 512 GiB guest does not need a 1 GiB vector.
  constexpr std::size_t kAtOnce = 65536 * kPageSize;
  PageMap page_map;
  const std::span<const std::byte> bytes = mapping_.bytes();
  std::uint64_t pages = 0;
  for (std::size_t offset = 0; offset < bytes.size(); offset += kAtOnce) {
    const std::size_t length = std::min(bytes.size() - offset, kAtOnce);
    pages += page_map.CountPresent(bytes.subspan(offset, length));
  }
  return pages * kPageSize;
}

}  // namespace embervm
