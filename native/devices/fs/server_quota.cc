// FsServer: what a guest may add to its directory. What it adds is counted as it is asked
// for; what it removes, and what others do, is found by looking at the whole tree again, when
// the quota seems to be used up and now and then.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "devices/fs/limits.h"
#include "devices/fs/server.h"
#include "devices/fs/usage.h"

namespace embervm::devices::fs {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint64_t kStatBlock = 512;
// Looking takes at most this part of the time.
constexpr int kRest = 10;
constexpr auto kOld = std::chrono::seconds(5);
// What may be added before others are asked about, as a part of the quota.
constexpr std::uint64_t kSteps = 16;

std::uint64_t RoundUp(std::uint64_t bytes) {
  return (bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
}

std::uint64_t RoundDown(std::uint64_t bytes) { return bytes / kPageBytes * kPageBytes; }

}  // namespace

void Server::MeasureUsage() {
  const auto begin = Clock::now();
  UsageCount count;
  if (const Node* const root = nodes_.Find(kRootId); root != nullptr) {
    count.AddTree(root->fd.get(), options_.cross_mounts);
  }
  struct stat single{};
  if (single_file_.valid() && ::fstat(single_file_.get(), &single) == 0) count.Add(single);
  // What has no name any more takes its place until the guest lets go of it.
  const auto add_nameless = [&count](int fd) {
    struct stat status{};
    if (::fstat(fd, &status) == 0 && status.st_nlink == 0) count.Add(status);
  };
  nodes_.ForEach([&](const Node& node) { add_nameless(node.fd.get()); });
  for (const auto& [handle, file] : files_) {
    if (nodes_.Find(file.node) == nullptr) add_nameless(file.fd.get());
  }
  usage_.bytes = count.complete() ? count.bytes() : std::max(usage_.bytes, count.bytes());
  usage_.added = 0;
  usage_.measured = true;
  usage_.changed = false;
  usage_.at = Clock::now();
  usage_.took = usage_.at - begin;
}

bool Server::MayMeasure() const {
  return !usage_.measured || Clock::now() - usage_.at >= usage_.took * kRest;
}

int Server::Reserve(std::uint64_t bytes) {
  if (options_.quota_bytes == 0) return 0;
  const bool old = usage_.added > options_.quota_bytes / kSteps ||
                   (usage_.added > 0 && Clock::now() - usage_.at > kOld);
  if (!usage_.measured || (old && MayMeasure())) MeasureUsage();
  const auto fits = [&] {
    return bytes <= options_.quota_bytes && usage_.bytes <= options_.quota_bytes - bytes;
  };
  // Others may have removed something, too.
  if (!fits() && MayMeasure()) MeasureUsage();
  // As a directory with a project quota says it.
  if (!fits()) return ENOSPC;
  usage_.bytes += bytes;
  usage_.added += bytes;
  return 0;
}

int Server::ReserveFile() { return Reserve(kInodeBytes + kPageBytes); }

int Server::ReserveWrite(int fd, std::uint64_t offset, std::uint64_t size) {
  if (options_.quota_bytes == 0 || size == 0) return 0;
  struct stat status{};
  if (::fstat(fd, &status) != 0) return errno;
  const auto length = static_cast<std::uint64_t>(status.st_size);
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0) return errno;
  if ((flags & O_APPEND) != 0) offset = length;
  const std::uint64_t end = offset + size;
  const bool is_whole = static_cast<std::uint64_t>(status.st_blocks) * kStatBlock >= length;
  if (is_whole && end <= RoundUp(length)) return 0;
  const std::uint64_t first = is_whole && offset < length ? RoundUp(length) : RoundDown(offset);
  return Reserve(RoundUp(end) - std::min(first, RoundUp(end)));
}

void Server::LimitStatfs(StatfsOut& out) {
  if (options_.quota_bytes == 0 || out.fragment_size == 0) return;
  const bool stale = usage_.changed || usage_.added > 0;
  if (!usage_.measured || (stale && MayMeasure())) MeasureUsage();
  const std::uint64_t used = std::min(usage_.bytes, options_.quota_bytes);
  const std::uint64_t left = (options_.quota_bytes - used) / out.fragment_size;
  out.blocks = options_.quota_bytes / out.fragment_size;
  out.blocks_free = std::min(out.blocks_free, left);
  out.blocks_available = std::min(out.blocks_available, left);
}

}  // namespace embervm::devices::fs
