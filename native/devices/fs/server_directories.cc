// FsServer: open directories and what is in them.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <limits>
#include <string>
#include <utility>

#include "base/bytes.h"
#include "devices/fs/limits.h"
#include "devices/fs/server.h"

namespace embervm::devices::fs {

namespace {

// getdents64(2): its fixed part is inode, offset, record length, type; then the name.
constexpr std::size_t kOffsetAt = 8;
constexpr std::size_t kLengthAt = 16;
constexpr std::size_t kTypeAt = 18;
constexpr std::size_t kNameAt = 19;

struct HostEntry {
  std::uint64_t inode = 0;
  std::uint64_t offset = 0;
  std::uint32_t type = 0;
  std::string name;
  std::size_t length = 0;
};

// The kernel's own records: whole, each within the buffer.
HostEntry ParseEntry(std::span<const std::byte> records) {
  HostEntry entry;
  entry.inode = LoadLe<std::uint64_t>(records);
  entry.offset = LoadLe<std::uint64_t>(records, kOffsetAt);
  entry.length = LoadLe<std::uint16_t>(records, kLengthAt);
  entry.type = LoadLe<std::uint8_t>(records, kTypeAt);
  const auto* const name = reinterpret_cast<const char*>(records.subspan(kNameAt).data());
  entry.name.assign(name, ::strnlen(name, entry.length - kNameAt));
  return entry;
}

std::size_t Padded(std::size_t length) {
  return (length + kEntryAlignment - 1) / kEntryAlignment * kEntryAlignment;
}

}  // namespace

int Server::Opendir(Request& request) {
  const Answer<Node*> node = FindDirectory(request.header.nodeid);
  if (!node.has_value()) return node.error();
  if (!HasRoom()) return ENFILE;
  Answer<UniqueFd> fd = OpenBelow((*node)->fd.get(), ".", O_RDONLY | O_DIRECTORY);
  if (!fd.has_value()) return fd.error();
  const std::uint64_t handle =
      AddFile({.fd = std::move(*fd), .node = request.header.nodeid, .directory = true});
  const bool always = options_.cache == FsCache::kAlways;
  request.reply.Put(OpenOut{.handle = handle,
                            .open_flags = always ? kOpenKeepCache | kOpenCacheDirectory : 0,
                            .padding = 0});
  return 0;
}

int Server::Readdir(Request& request) { return List(request, false); }

int Server::Readdirplus(Request& request) { return List(request, true); }

int Server::List(Request& request, bool plus) {
  ReadIn in{};
  if (!request.body.Take(in)) return EINVAL;
  const Answer<OpenFile*> file = FindFile(in.handle, request.header.nodeid, true);
  if (!file.has_value()) return file.error();
  const int fd = (*file)->fd.get();
  const auto limit = std::min<std::uint64_t>(in.size, kMaxListing);
  const std::uint64_t room = std::min(limit, request.reply.room());
  if (in.offset > static_cast<std::uint64_t>(std::numeric_limits<off_t>::max())) return EINVAL;
  // Where the driver goes on is its choice: positions are those that entries told it.
  if (::lseek(fd, static_cast<off_t>(in.offset), SEEK_SET) < 0) return errno;

  alignas(std::uint64_t) std::array<std::byte, kMaxListing / 2> buffer;
  std::vector<std::byte> out;
  out.reserve(static_cast<std::size_t>(room));
  const std::size_t fixed = sizeof(DirectoryEntry) + (plus ? sizeof(EntryOut) : 0);
  for (bool full = false; !full;) {
    const long got = ::syscall(SYS_getdents64, fd, buffer.data(), buffer.size());
    if (got < 0) {
      // What there is goes out; the error comes again with the next call.
      if (out.empty()) return errno;
      break;
    }
    if (got == 0) break;
    std::span<const std::byte> records = std::span(buffer).first(static_cast<std::size_t>(got));
    while (!records.empty()) {
      const HostEntry entry = ParseEntry(records);
      records = records.subspan(entry.length);
      const std::size_t size = Padded(fixed + entry.name.size());
      if (out.size() + size > room) {
        full = true;
        break;
      }
      const std::size_t next = out.size();
      out.resize(next + size);
      const std::span<std::byte> place = std::span(out).subspan(next);
      // Without a node the driver looks it up when it needs it.
      EntryOut found{};
      const bool dots = entry.name == "." || entry.name == "..";
      if (plus && !dots) found = MakeEntry(fd, entry.name.c_str()).value_or(EntryOut{});
      if (plus) StoreLe(place, 0, found);
      // What is above the root is none of the guest's business.
      const bool above = entry.name == ".." && request.header.nodeid == kRootId;
      StoreLe(place, fixed - sizeof(DirectoryEntry),
              DirectoryEntry{.inode = above ? nodes_.Find(kRootId)->inode : entry.inode,
                             .offset = entry.offset,
                             .name_length = static_cast<std::uint32_t>(entry.name.size()),
                             .type = entry.type});
      std::ranges::copy(std::as_bytes(std::span(entry.name)), place.subspan(fixed).begin());
    }
  }
  if (out.empty() && in.size > 0 && room < Padded(fixed + kMaxName)) return EINVAL;
  request.reply.PutBytes(out);
  return 0;
}

int Server::Releasedir(Request& request) {
  ReleaseIn in{};
  if (!request.body.Take(in)) return EINVAL;
  const Answer<OpenFile*> file = FindFile(in.handle, request.header.nodeid, true);
  if (!file.has_value()) return file.error();
  files_.erase(in.handle);
  return 0;
}

int Server::Fsyncdir(Request& request) {
  FsyncIn in{};
  if (!request.body.Take(in)) return EINVAL;
  const Answer<OpenFile*> file = FindFile(in.handle, request.header.nodeid, true);
  if (!file.has_value()) return file.error();
  return ::fsync((*file)->fd.get()) == 0 ? 0 : errno;
}

int Server::Syncfs(Request& request) {
  const Answer<Node*> root = FindDirectory(request.header.nodeid);
  if (!root.has_value()) return root.error();
  const Answer<UniqueFd> fd = OpenBelow((*root)->fd.get(), ".", O_RDONLY | O_DIRECTORY);
  if (!fd.has_value()) return fd.error();
  return ::syncfs(fd->get()) == 0 ? 0 : errno;
}

}  // namespace embervm::devices::fs
