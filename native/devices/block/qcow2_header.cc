#include "devices/block/qcow2_header.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "base/big_endian.h"
#include "base/checked.h"
#include "devices/block/protocol.h"

namespace embervm::devices {

namespace {

constexpr std::uint32_t kMagic = 0x514649fb;
constexpr std::size_t kVersion2Bytes = 72;
constexpr std::size_t kVersion3Bytes = 104;
constexpr std::uint32_t kMinClusterBits = 9;
constexpr std::uint32_t kMaxClusterBits = 21;
// As much as QEMU takes: it is kept in memory.
constexpr std::uint64_t kMaxL1Bytes = std::uint64_t{32} << 20U;
constexpr std::uint64_t kMaxRefcountTableBytes = std::uint64_t{8} << 20U;
constexpr std::uint32_t kRefcountBits16 = 4;
constexpr std::uint32_t kMaxRefcountOrder = 6;

constexpr std::uint64_t kDirty = 1;
constexpr std::uint64_t kCorrupt = 2;

struct Feature {
  std::uint64_t bit;
  std::string_view problem;
};
constexpr std::array kRefusedFeatures{
    Feature{.bit = 4, .problem = "its data is in another file, which is not supported"},
    Feature{.bit = 8, .problem = "its compression is not zlib, which is not supported"},
    Feature{.bit = 16, .problem = "it has extended L2 entries, which are not supported"},
};

// What can be told from the fields that both versions have.
std::string_view ProblemOfBasics(std::span<const std::byte> bytes) {
  if (LoadBe<std::uint32_t>(bytes, 0) != kMagic) return "it is no qcow2 image";
  const auto version = LoadBe<std::uint32_t>(bytes, 4);
  if (version != 2 && version != 3) return "it is a qcow2 image of an unknown version";
  if (LoadBe<std::uint64_t>(bytes, 8) != 0 || LoadBe<std::uint32_t>(bytes, 16) != 0) {
    return "it has a backing file, which is not supported: make one image of the two";
  }
  if (LoadBe<std::uint32_t>(bytes, 32) != 0) return "it is encrypted, which is not supported";
  const auto cluster_bits = LoadBe<std::uint32_t>(bytes, 20);
  if (cluster_bits < kMinClusterBits || cluster_bits > kMaxClusterBits) {
    return "its clusters are not of 512 bytes to 2 MiB";
  }
  return {};
}

std::string_view ProblemOfFeatures(std::uint64_t incompatible, bool read_only) {
  for (const Feature& feature : kRefusedFeatures) {
    if ((incompatible & feature.bit) != 0) return feature.problem;
    incompatible &= ~feature.bit;
  }
  if ((incompatible & ~(kDirty | kCorrupt)) != 0) return "it has unknown incompatible features";
  // Both are about what only a writer needs.
  if (read_only || incompatible == 0) return {};
  return (incompatible & kCorrupt) != 0
             ? "it is marked as corrupt: repair it, or use it read-only"
             : "it is marked as not closed properly: repair it, or use it read-only";
}

std::string_view ProblemOfTables(const Qcow2Header& header, std::uint64_t file_bytes) {
  const std::uint64_t in_cluster = header.cluster_bytes() - 1;
  if (header.size == 0 || header.size % block::kSectorSize != 0) {
    return "the size of the disk is 0 or not a multiple of 512 bytes";
  }
  const std::uint64_t l1_bytes = std::uint64_t{header.l1_entries} * 8;
  if (l1_bytes > kMaxL1Bytes) return "its L1 table is too large";
  if (header.clusters() > header.l1_entries * header.entries_per_l2()) {
    return "its L1 table is too small for the size of the disk";
  }
  if (header.l1_offset == 0 || (header.l1_offset & in_cluster) != 0 ||
      !RangeFits(header.l1_offset, l1_bytes, file_bytes)) {
    return "its L1 table is not inside the file";
  }
  const std::uint64_t table_bytes = header.refcount_table_entries() * 8;
  if (table_bytes == 0 || table_bytes > kMaxRefcountTableBytes) {
    return "its refcount table has no size or is too large";
  }
  if (header.refcount_table_offset == 0 || (header.refcount_table_offset & in_cluster) != 0 ||
      !RangeFits(header.refcount_table_offset, table_bytes, file_bytes)) {
    return "its refcount table is not inside the file";
  }
  return {};
}

}  // namespace

Result<Qcow2Header> Qcow2Header::Read(const ImageFile& file, std::uint64_t file_bytes) {
  const auto refuse = [&file](std::string_view problem) {
    return std::unexpected(file.Invalid(std::string(problem)));
  };
  std::array<std::byte, kVersion3Bytes> bytes{};
  const std::size_t there = std::min<std::uint64_t>(bytes.size(), file_bytes);
  if (there < kVersion2Bytes || !file.ReadAt(0, std::span(bytes).first(there))) {
    return refuse("it is no qcow2 image");
  }
  if (const auto problem = ProblemOfBasics(bytes); !problem.empty()) return refuse(problem);
  Qcow2Header header;
  header.version = LoadBe<std::uint32_t>(bytes, 4);
  header.cluster_bits = LoadBe<std::uint32_t>(bytes, 20);
  header.size = LoadBe<std::uint64_t>(bytes, 24);
  header.l1_entries = LoadBe<std::uint32_t>(bytes, 36);
  header.l1_offset = LoadBe<std::uint64_t>(bytes, 40);
  header.refcount_table_offset = LoadBe<std::uint64_t>(bytes, 48);
  header.refcount_table_clusters = LoadBe<std::uint32_t>(bytes, 56);
  std::uint32_t refcount_order = kRefcountBits16;
  if (header.version == 3) {
    if (there < kVersion3Bytes) return refuse("its header is cut off");
    const auto incompatible = LoadBe<std::uint64_t>(bytes, 72);
    if (const auto problem = ProblemOfFeatures(incompatible, file.read_only()); !problem.empty()) {
      return refuse(problem);
    }
    header.autoclear = LoadBe<std::uint64_t>(bytes, qcow2::kAutoclearOffset);
    refcount_order = LoadBe<std::uint32_t>(bytes, 96);
    const auto header_bytes = LoadBe<std::uint32_t>(bytes, 100);
    if (header_bytes < kVersion3Bytes || header_bytes > header.cluster_bytes()) {
      return refuse("its header has an impossible length");
    }
  }
  if (refcount_order > kMaxRefcountOrder) return refuse("its refcounts have an impossible width");
  if (!file.read_only() && refcount_order != kRefcountBits16) {
    return refuse("its refcounts are not of 16 bits: use it read-only");
  }
  // What a snapshot shares with the disk must not change, and nothing here copies it first.
  if (!file.read_only() && LoadBe<std::uint32_t>(bytes, 60) != 0) {
    return refuse("it has internal snapshots: delete them, or use it read-only");
  }
  if (const auto problem = ProblemOfTables(header, file_bytes); !problem.empty()) {
    return refuse(problem);
  }
  return header;
}

}  // namespace embervm::devices
