#include "memory/reclaim.h"

#include <sys/mman.h>

#include <algorithm>

namespace embervm {

namespace {

constexpr std::uint64_t kPageSize = GuestMemory::kPageSize;

}  // namespace

std::uint64_t ReclaimRange(std::span<std::byte> bytes) {
  const auto address = reinterpret_cast<std::uintptr_t>(bytes.data());
  const std::uintptr_t begin = (address + kPageSize - 1) / kPageSize * kPageSize;
  const std::uintptr_t end = (address + bytes.size()) / kPageSize * kPageSize;
  if (begin >= end) return 0;
  const std::span<std::byte> pages = bytes.subspan(begin - address, end - begin);
  // Fails for memory that is locked, which then stays.
  return ::madvise(pages.data(), pages.size(), MADV_DONTNEED) == 0 ? pages.size() : 0;
}

std::uint64_t ReclaimPages(const GuestMemory& memory, std::vector<std::uint32_t> pages) {
  std::ranges::sort(pages);
  const auto repeated = std::ranges::unique(pages);
  pages.erase(repeated.begin(), repeated.end());
  std::erase_if(pages, [&memory](std::uint32_t page) {
    return !memory.Slice(page * kPageSize, kPageSize).has_value();
  });
  for (std::size_t first = 0; first < pages.size();) {
    std::size_t count = 1;
    // A run that leaves its region (the gap below 4 GiB) ends there.
    while (first + count < pages.size() && pages[first + count] == pages[first] + count &&
           memory.Slice(pages[first] * kPageSize, (count + 1) * kPageSize).has_value()) {
      ++count;
    }
    ReclaimRange(*memory.Slice(pages[first] * kPageSize, count * kPageSize));
    first += count;
  }
  return pages.size();
}

}  // namespace embervm
