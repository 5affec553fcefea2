#include "memory/memory_file.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <span>

#include "memory/page_map.h"

namespace embervm {

namespace {

constexpr std::uint64_t kPage = GuestMemory::kPageSize;
// What is looked at together: its page map entries fit two pages.
constexpr std::size_t kWindowPages = 1024;
constexpr std::size_t kWindow = kWindowPages * kPage;

bool IsZero(std::span<const std::byte> page) {
  // A page equals itself moved by a word only if all words equal the first.
  constexpr std::size_t kWord = sizeof(std::uint64_t);
  std::uint64_t first = 0;
  std::memcpy(&first, page.data(), kWord);
  return first == 0 && std::memcmp(page.data(), page.data() + kWord, page.size() - kWord) == 0;
}

Error WriteFailed(const char* syscall, int saved_errno) {
  return Error::FromErrno("ERR_SNAPSHOT_WRITE", syscall, saved_errno, "the memory file");
}

Result<> WriteAt(int fd, std::span<const std::byte> bytes, std::uint64_t offset) {
  while (!bytes.empty()) {
    const ssize_t count = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return std::unexpected(WriteFailed("pwrite", errno));
    bytes = bytes.subspan(static_cast<std::size_t>(count));
    offset += static_cast<std::uint64_t>(count);
  }
  return {};
}

using PageSet = std::array<bool, kWindowPages>;

void MarkPages(PageSet& pages, std::uint64_t window, std::uint64_t begin, std::uint64_t end) {
  begin = std::max(begin, window);
  end = std::min(end, window + kWindow);
  for (std::uint64_t at = begin / kPage * kPage; at < end; at += kPage) {
    pages.at((at - window) / kPage) = true;
  }
}

// The pages of the window for which a file holds data; the rest of it are holes.
void MarkStored(PageSet& pages, const GuestMemory::Layer& layer, std::uint64_t window) {
  for (const GuestMemory::Extent& extent : layer.extents) {
    MarkPages(pages, window, extent.offset, extent.offset + extent.length);
  }
  if (!layer.extents.empty()) return;
  const int fd = layer.file.get();
  const auto end = static_cast<off_t>(window + kWindow);
  auto at = static_cast<off_t>(window);
  while (at < end) {
    const off_t data = ::lseek(fd, at, SEEK_DATA);
    if (data < 0 && errno == ENXIO) return;  // Holes up to the end of the file.
    const off_t hole = data < 0 ? -1 : ::lseek(fd, data, SEEK_HOLE);
    if (hole < 0) {
      // A file system that does not tell: everything may be data.
      pages.fill(true);
      return;
    }
    MarkPages(pages, window, static_cast<std::uint64_t>(data), static_cast<std::uint64_t>(hole));
    at = hole;
  }
}

// Writes what is not zero of `pages`, in as few calls as there are runs.
Result<std::uint64_t> WritePages(int fd, std::span<const std::byte> bytes, std::uint64_t offset,
                                 const PageSet& pages) {
  std::uint64_t written = 0;
  std::size_t run = 0;  // Bytes before `at` that wait to be written.
  for (std::size_t at = 0; at <= bytes.size(); at += kPage) {
    const bool wanted =
        at < bytes.size() && pages.at(at / kPage) && !IsZero(bytes.subspan(at, kPage));
    if (wanted) {
      run += kPage;
    } else if (run > 0) {
      EMBERVM_TRY(WriteAt(fd, bytes.subspan(at - run, run), offset + at - run));
      written += run;
      run = 0;
    }
  }
  return written;
}

void AppendExtents(std::vector<GuestMemory::Extent>& extents, const PageSet& pages,
                   std::uint64_t window) {
  for (std::size_t page = 0; page < pages.size(); ++page) {
    if (!pages.at(page)) continue;
    const std::uint64_t offset = window + page * kPage;
    if (!extents.empty() && extents.back().offset + extents.back().length == offset) {
      extents.back().length += kPage;
    } else {
      extents.push_back({.offset = offset, .length = kPage});
    }
  }
}

// Calls `choose` for each window of the parts to say which of its pages count, and
// writes those.
template <class Choose>
Result<std::uint64_t> WriteWindows(const GuestMemory& memory,
                                   std::span<const GuestMemory::Extent> parts, int fd,
                                   const std::atomic<bool>& cancelled, Choose choose) {
  if (::ftruncate(fd, static_cast<off_t>(memory.size())) != 0) {
    return std::unexpected(WriteFailed("ftruncate", errno));
  }
  PageMap page_map;
  std::uint64_t written = 0;
  for (const GuestMemory::Extent& part : parts) {
    const std::uint64_t end = part.offset + part.length;
    for (std::uint64_t window = part.offset; window < end; window += kWindow) {
      if (cancelled.load(std::memory_order_relaxed)) {
        return std::unexpected(
            Error("ERR_MACHINE_CLOSED", "the machine was ended while its memory was saved"));
      }
      const auto length = static_cast<std::size_t>(std::min<std::uint64_t>(kWindow, end - window));
      const std::span<const std::byte> bytes = memory.bytes().subspan(window, length);
      PageSet pages{};
      choose(window, page_map.Read(bytes), pages);
      EMBERVM_TRY_ASSIGN(const std::uint64_t count, WritePages(fd, bytes, window, pages));
      written += count;
    }
  }
  return written;
}

}  // namespace

Result<MemoryFileReport> WriteWholeMemory(const GuestMemory& memory,
                                          std::span<const GuestMemory::Extent> parts, int fd,
                                          const std::atomic<bool>& cancelled) {
  const auto choose = [&](std::uint64_t window, std::span<const PageKind> kinds, PageSet& pages) {
    for (const GuestMemory::Layer& layer : memory.layers()) MarkStored(pages, layer, window);
    for (std::size_t page = 0; page < kinds.size(); ++page) {
      if (kinds[page] == PageKind::kPrivate) pages.at(page) = true;
    }
  };
  EMBERVM_TRY_ASSIGN(const std::uint64_t written,
                     WriteWindows(memory, parts, fd, cancelled, choose));
  return MemoryFileReport{.data_bytes = written, .extents = {}};
}

Result<MemoryFileReport> WriteChangedMemory(const GuestMemory& memory,
                                            std::span<const GuestMemory::Extent> parts, int fd,
                                            const std::atomic<bool>& cancelled) {
  MemoryFileReport report;
  const auto choose = [&](std::uint64_t window, std::span<const PageKind> kinds, PageSet& pages) {
    for (std::size_t page = 0; page < kinds.size(); ++page) {
      pages.at(page) = kinds[page] == PageKind::kPrivate;
    }
    AppendExtents(report.extents, pages, window);
  };
  EMBERVM_TRY_ASSIGN(report.data_bytes, WriteWindows(memory, parts, fd, cancelled, choose));
  return report;
}

}  // namespace embervm
