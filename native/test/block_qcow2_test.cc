// Disks in qcow2 images: what is written is what is read, and the file is always consistent.
#include <doctest/doctest.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/big_endian.h"
#include "devices/block/qcow2_disk.h"
#include "test/support/qcow2_check.h"
#include "test/support/qcow2_image.h"
#include "test/support/temp_file.h"

namespace embervm::devices {
namespace {

using test::CheckQcow2;
using test::Qcow2Image;
using test::TempFile;

constexpr std::uint64_t kMib = 1U << 20U;

// A disk in a file of its own.
struct Fixture {
  explicit Fixture(Qcow2Image image) : file(0) { file.Write(0, image.bytes()); }

  std::unique_ptr<Disk> Open(bool read_only = false) const {
    auto disk = Qcow2Disk::Open(file.path(), read_only, false);
    REQUIRE(disk.has_value());
    return std::move(disk).value();
  }
  std::vector<std::byte> Bytes() const {
    struct stat status{};
    REQUIRE(::stat(file.path().c_str(), &status) == 0);
    return file.Read(0, static_cast<std::size_t>(status.st_size));
  }

  TempFile file;
};

bool Write(const Disk& disk, std::uint64_t offset, std::vector<std::byte> bytes,
           bool durable = false) {
  std::uint64_t transferred = 0;
  const bool done = disk.Write({{.iov_base = bytes.data(), .iov_len = bytes.size()}}, offset,
                               durable, transferred);
  CHECK((!done || transferred == bytes.size()));
  return done;
}

// Nothing where the disk could not be read.
std::vector<std::byte> Read(const Disk& disk, std::uint64_t offset, std::size_t length) {
  std::vector<std::byte> bytes(length, std::byte{0xee});
  std::uint64_t transferred = 0;
  // In two pieces, as a guest may have it.
  const std::size_t half = length / 2;
  if (!disk.Read({{.iov_base = bytes.data(), .iov_len = half},
                  {.iov_base = bytes.data() + half, .iov_len = length - half}},
                 offset, transferred)) {
    return {};
  }
  CHECK(transferred == length);
  return bytes;
}

std::vector<std::byte> Filled(std::size_t length, unsigned value) {
  return std::vector<std::byte>(length, static_cast<std::byte>(value));
}

TEST_CASE("qcow2: any order of writes, zeroes and discards reads as it should, also later") {
  struct Kind {
    std::uint32_t cluster_bits;
    std::uint32_t version;
  };
  for (const Kind kind : {Kind{9, 3}, Kind{12, 2}, Kind{16, 3}}) {
    CAPTURE(kind.cluster_bits);
    const std::uint64_t size = kMib + 512;
    const Fixture f(Qcow2Image(size, kind.cluster_bits, kind.version));
    std::vector<std::byte> model(size);
    std::mt19937 random(kind.cluster_bits);
    for (int round = 0; round < 4; ++round) {
      const auto disk = f.Open();
      REQUIRE(disk->size() == size);
      REQUIRE(Read(*disk, 0, size) == model);
      for (int step = 0; step < 200; ++step) {
        const std::uint64_t first = random() % (size / 512);
        const std::uint64_t most = std::min<std::uint64_t>(size / 512 - first, 100);
        const std::uint64_t offset = first * 512;
        const std::uint64_t length = (1 + random() % most) * 512;
        const auto part = std::span(model).subspan(offset, length);
        switch (random() % 5) {
          case 0:
            REQUIRE(disk->Discard(offset, length));
            std::ranges::fill(part, std::byte{0});
            break;
          case 1:
            REQUIRE(disk->WriteZeroes(offset, length, random() % 2 == 0));
            std::ranges::fill(part, std::byte{0});
            break;
          case 2:
            if (step % 16 == 0) REQUIRE(disk->Flush());
            REQUIRE(std::ranges::equal(Read(*disk, offset, length), part));
            break;
          default:
            std::ranges::generate(part, [&] { return static_cast<std::byte>(random()); });
            REQUIRE(Write(*disk, offset, {part.begin(), part.end()}, step % 32 == 0));
        }
      }
      REQUIRE(Read(*disk, 0, size) == model);
    }
    const auto found = CheckQcow2(f.Bytes());
    CHECK(found.errors == 0);
    CHECK(found.leaks == 0);
    CHECK(found.data_clusters > 0);
    // Each cluster of the disk has one in the file at most.
    CHECK(found.data_clusters <= (size >> kind.cluster_bits) + 1);
    CHECK(Read(*f.Open(true), 0, size) == model);
  }
}

TEST_CASE("qcow2: until a flush, the file is as it was but for clusters nobody leads to") {
  const Fixture f(Qcow2Image(kMib, 12));
  const auto disk = f.Open();
  CHECK(Write(*disk, 8192, Filled(4096, 1)));
  CHECK(Read(*disk, 8192, 4096) == Filled(4096, 1));
  const auto before = CheckQcow2(f.Bytes());
  CHECK(before.errors == 0);
  // The data and its L2 table.
  CHECK(before.leaks == 2);
  CHECK(disk->Flush());
  auto after = CheckQcow2(f.Bytes());
  CHECK(after.errors == 0);
  CHECK(after.leaks == 0);
  CHECK(after.data_clusters == 1);
  CHECK(Write(*disk, 0, Filled(512, 2), true));
  after = CheckQcow2(f.Bytes());
  CHECK(after.errors == 0);
  CHECK(after.data_clusters == 2);
}

TEST_CASE("qcow2: a disk with more tables than are kept in memory") {
  // Tables of 2 MiB, for 512 GiB each.
  constexpr std::uint64_t kPerTable = std::uint64_t{1} << 39U;
  const Fixture f(Qcow2Image(12 * kPerTable, 21));
  {
    const auto disk = f.Open();
    for (unsigned round = 0; round < 2; ++round) {
      for (unsigned i = 0; i < 12; ++i) {
        CHECK(Write(*disk, i * kPerTable + round * 2 * kMib, Filled(512, i + 1)));
      }
    }
    for (unsigned i = 0; i < 12; ++i) CHECK(Read(*disk, i * kPerTable, 512) == Filled(512, i + 1));
  }
  const auto disk = f.Open(true);
  for (unsigned i = 0; i < 12; ++i) {
    CHECK(Read(*disk, i * kPerTable + 2 * kMib, 1024) == [i] {
      auto both = Filled(1024, 0);
      std::fill_n(both.begin(), 512, static_cast<std::byte>(i + 1));
      return both;
    }());
  }
}

// An image with one L2 table, whose first entries are given.
Qcow2Image WithEntries(const std::vector<std::uint64_t>& entries, std::uint32_t version = 3) {
  Qcow2Image image(kMib, 12, version);
  const std::uint64_t l2 = image.Append(std::byte{0});
  image.Put<std::uint64_t>(image.l1(), l2 | qcow2::kCopied);
  for (std::size_t i = 0; i < entries.size(); ++i) image.Put<std::uint64_t>(l2 + i * 8, entries[i]);
  return image;
}

// Where the first cluster behind such a table is.
constexpr std::uint64_t kBehind = 5 * 4096;

TEST_CASE("qcow2: clusters that are marked as zeroes keep what they have to themselves") {
  Qcow2Image image = WithEntries({kBehind | qcow2::kCopied | qcow2::kZero, qcow2::kZero});
  image.Append(std::byte{0x77});
  const Fixture f(std::move(image));
  const auto disk = f.Open();
  CHECK(Read(*disk, 0, 8192) == Filled(8192, 0));
  CHECK(Write(*disk, 512, Filled(512, 5)));
  CHECK(Write(*disk, 4096, Filled(512, 6)));
  auto expected = Filled(8192, 0);
  std::fill_n(expected.begin() + 512, 512, std::byte{5});
  std::fill_n(expected.begin() + 4096, 512, std::byte{6});
  CHECK(Read(*disk, 0, 8192) == expected);
}

TEST_CASE("qcow2: a cluster that others use too is not written") {
  Qcow2Image image = WithEntries({kBehind, kBehind + 4096});
  image.Append(std::byte{1});
  image.Append(std::byte{2});
  image.Count(6, 2);
  const Fixture f(std::move(image));
  const auto disk = f.Open();
  CHECK(Write(*disk, 0, Filled(4096, 9)));
  CHECK_FALSE(Write(*disk, 4096, Filled(4096, 9)));
  CHECK_FALSE(disk->Discard(4096, 4096));
  CHECK_FALSE(disk->WriteZeroes(4096, 4096, true));
  CHECK(Read(*disk, 4096, 4096) == Filled(4096, 2));
}

TEST_CASE("qcow2: the last cluster of a file need not be whole") {
  Qcow2Image image = WithEntries({kBehind | qcow2::kCopied});
  image.Append(std::byte{3});
  image.bytes().resize(kBehind + 100);
  const Fixture f(std::move(image));
  const auto disk = f.Open();
  auto expected = Filled(4096, 0);
  std::fill_n(expected.begin(), 100, std::byte{3});
  CHECK(Read(*disk, 0, 4096) == expected);
  CHECK(Read(*disk, 512, 512) == Filled(512, 0));
  CHECK(Write(*disk, 65536, Filled(512, 4)));
  CHECK(Read(*disk, 0, 4096) == expected);
}

TEST_CASE("qcow2: an entry that lies is an I/O error, to read and to change") {
  for (const std::uint64_t entry : {
           std::uint64_t{4096},                        // The refcount table.
           std::uint64_t{2 * 4096},                    // A refcount block.
           std::uint64_t{3 * 4096} | qcow2::kCopied,   // The L1 table.
           std::uint64_t{4 * 4096} | qcow2::kCopied,   // The L2 table itself.
           (kBehind + 512) | qcow2::kCopied,           // Between two clusters.
           (kBehind + 4096) | qcow2::kCopied,          // Behind the end of the file.
           qcow2::kOffsetMask & ~std::uint64_t{4095},  // Far behind it.
           kBehind | qcow2::kCompressed,
           kBehind | std::uint64_t{1} << 56U,
           kBehind | 2U,
           UINT64_MAX,
       }) {
    CAPTURE(entry);
    Qcow2Image image = WithEntries({entry});
    image.Append(std::byte{1});
    const Fixture f(std::move(image));
    const auto disk = f.Open();
    const auto before = f.Bytes();
    CHECK(Read(*disk, 0, 512).empty());
    CHECK_FALSE(Write(*disk, 0, Filled(512, 9)));
    CHECK_FALSE(Write(*disk, 0, Filled(4096, 9)));
    CHECK_FALSE(disk->Discard(0, 4096));
    CHECK_FALSE(disk->WriteZeroes(0, 4096, false));
    CHECK(disk->Flush());
    CHECK(f.Bytes() == before);
    // The others are as they should be.
    CHECK(Read(*disk, 4096, 512) == Filled(512, 0));
  }
  // What version 3 knows is a reserved bit for version 2.
  const Fixture f(WithEntries({qcow2::kZero}, 2));
  CHECK(Read(*f.Open(), 0, 512).empty());
}

std::string Refusal(const Qcow2Image& image, bool read_only) {
  const Fixture f(image);
  const auto disk = Qcow2Disk::Open(f.file.path(), read_only, false);
  if (disk.has_value()) return {};
  CHECK(disk.error().code() == "ERR_DRIVE_INVALID");
  return disk.error().message();
}

TEST_CASE("qcow2: a header that lies or asks for too much is refused with the reason") {
  struct Lie {
    std::uint64_t offset;
    std::uint32_t value;
    std::string reason;
    bool writer_only = false;
  };
  const std::vector<Lie> lies = {
      {0, 0x12345678, "no qcow2 image"},
      {4, 1, "unknown version"},
      {4, 4, "unknown version"},
      {12, 512, "backing file"},
      {16, 7, "backing file"},
      {20, 8, "512 bytes to 2 MiB"},
      {20, 22, "512 bytes to 2 MiB"},
      {20, UINT32_MAX, "512 bytes to 2 MiB"},
      {28, kMib + 1, "multiple of 512"},
      {28, 0, "multiple of 512"},
      {24, 1, "too small for the size"},
      {24, UINT32_MAX, "too small for the size"},
      {32, 1, "encrypted"},
      {36, 0, "too small for the size"},
      {36, 8192, "L1 table is not inside"},
      {36, UINT32_MAX, "L1 table is too large"},
      {40, UINT32_MAX, "L1 table is not inside"},
      {44, 0, "L1 table is not inside"},
      {44, 3 * 4096 + 8, "L1 table is not inside"},
      {44, 4096, "overlap"},
      {52, 0, "refcount table is not inside"},
      {52, 4097, "refcount table is not inside"},
      {52, 3 * 4096, "overlap"},
      {56, 0, "refcount table has no size"},
      {56, 100, "refcount table is not inside"},
      {56, UINT32_MAX, "refcount table has no size or is too large"},
      {60, 1, "internal snapshots", true},
      {76, 1, "not closed properly", true},
      {76, 2, "corrupt", true},
      {76, 4, "another file"},
      {76, 8, "compression"},
      {76, 16, "extended L2"},
      {76, 32, "unknown incompatible"},
      {72, 1, "unknown incompatible"},
      {96, 3, "not of 16 bits", true},
      {96, 7, "width"},
      {100, 96, "impossible length"},
      {100, 8192, "impossible length"},
      {4096, 1, "table is not inside"},
      {4100, 2 * 4096 + 2, "table is not inside"},
      {4100, 64 * 4096, "table is not inside"},
      {4100, 4096, "overlap"},
      {3 * 4096, 0x01000000, "reserved"},
      {3 * 4096 + 4, 1, "reserved"},
      {3 * 4096 + 4, 512, "table is not inside"},
      {3 * 4096 + 4, 3 * 4096, "overlap"},
      {3 * 4096 + 4, 64 * 4096, "table is not inside"},
  };
  for (const Lie& lie : lies) {
    CAPTURE(lie.offset);
    CAPTURE(lie.value);
    Qcow2Image image(kMib, 12);
    image.Put<std::uint32_t>(lie.offset, lie.value);
    CHECK(Refusal(image, false).contains(lie.reason));
    const std::string read_only = Refusal(image, true);
    CHECK(lie.writer_only == read_only.empty());
  }
}

TEST_CASE("qcow2: files that end too early, and disks too large for their refcounts") {
  for (const std::size_t length :
       {std::size_t{1}, std::size_t{71}, std::size_t{103}, std::size_t{4096}, std::size_t{8192}}) {
    CAPTURE(length);
    Qcow2Image image(kMib, 12);
    image.bytes().resize(length);
    CHECK_FALSE(Refusal(image, false).empty());
    CHECK_FALSE(Refusal(image, true).empty());
  }
  // One cluster of a refcount table counts 8 MiB of these.
  const Qcow2Image large(16 * kMib, 9);
  CHECK(Refusal(large, false).contains("refcount table is too small"));
  CHECK(Refusal(large, true).empty());
  // What fits stays so when it has been written.
  const Fixture f(Qcow2Image(5 * kMib, 9));
  CHECK(Write(*f.Open(), 0, Filled(5 * kMib, 1)));
  CHECK(Read(*f.Open(), 0, 5 * kMib) == Filled(5 * kMib, 1));
  CHECK(CheckQcow2(f.Bytes()).errors == 0);
}

TEST_CASE("qcow2: a writer takes back what additions would have to be told") {
  Qcow2Image image(kMib, 12);
  image.Put<std::uint64_t>(88, 1);
  const Fixture f(std::move(image));
  CHECK(f.Open(true)->read_only());
  CHECK(LoadBe<std::uint64_t>(f.Bytes(), 88) == 1);
  CHECK_FALSE(f.Open()->read_only());
  CHECK(LoadBe<std::uint64_t>(f.Bytes(), 88) == 0);
}

}  // namespace
}  // namespace embervm::devices
