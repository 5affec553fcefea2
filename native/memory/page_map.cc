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
  kinds_.assign(bytes.size() / GuestMemory::kPageSize, PageKind::kPrivate);
  if (ReadEntries(bytes)) std::ranges::transform(entries_, kinds_.begin(), KindOf);
  return kinds_;
}

std::size_t PageMap::CountPresent(std::span<const std::byte> bytes) {
  if (!ReadEntries(bytes)) return 0;
  const auto is_present = [](std::uint64_t entry) { return (entry & kPresent) != 0; };
  return static_cast<std::size_t>(std::ranges::count_if(entries_, is_present));
}

bool PageMap::ReadEntries(std::span<const std::byte> bytes) {
  if (!fd_.valid()) return false;
  entries_.resize(bytes.size() / GuestMemory::kPageSize);
  const std::span<std::byte> raw = std::as_writable_bytes(std::span(entries_));
  const std::uint64_t first = reinterpret_cast<std::uintptr_t>(bytes.data()) /
                              GuestMemory::kPageSize * sizeof(std::uint64_t);
  std::size_t got = 0;
  while (got < raw.size()) {
    const auto rest = raw.subspan(got);
    const ssize_t count =
        ::pread(fd_.get(), rest.data(), rest.size(), static_cast<off_t>(first + got));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    got += static_cast<std::size_t>(count);
  }
  return true;
}

}  // namespace embervm
