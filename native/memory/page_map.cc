#include "memory/page_map.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>

#include "memory/guest_memory.h"

namespace embervm {

namespace {

constexpr std::uint64_t kPresent = std::uint64_t{1} << 63U;
constexpr std::uint64_t kSwapped = std::uint64_t{1} << 62U;
constexpr std::uint64_t kFilePage = std::uint64_t{1} << 61U;

PageKind KindOf(std::uint64_t entry) {
  if ((entry & (kPresent | kSwapped)) == 0) return PageKind::kAbsent;
  return (entry & kFilePage) != 0 ? PageKind::kFile : PageKind::kPrivate;
}

}  // namespace

PageMap::PageMap() {
  int fd = -1;
  do {
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-vararg): open is variadic.
    fd = ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  } while (fd < 0 && errno == EINTR);
  fd_.Reset(fd);
}

std::span<const PageKind> PageMap::Read(std::span<const std::byte> bytes) {
  const std::size_t pages = bytes.size() / GuestMemory::kPageSize;
  kinds_.assign(pages, PageKind::kPrivate);
  if (!fd_.valid()) return kinds_;
  entries_.resize(pages);
  const std::span<std::byte> raw = std::as_writable_bytes(std::span(entries_));
  const std::uint64_t first = reinterpret_cast<std::uintptr_t>(bytes.data()) /
                              GuestMemory::kPageSize * sizeof(std::uint64_t);
  std::size_t got = 0;
  while (got < raw.size()) {
    const auto rest = raw.subspan(got);
    const ssize_t count =
        ::pread(fd_.get(), rest.data(), rest.size(), static_cast<off_t>(first + got));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return kinds_;
    got += static_cast<std::size_t>(count);
  }
  std::ranges::transform(entries_, kinds_.begin(), KindOf);
  return kinds_;
}

}  // namespace embervm
