// Flat VMDK images: descriptors right and wrong, and disks over several files.
#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "devices/block/vmdk_descriptor.h"
#include "devices/block/vmdk_disk.h"
#include "virtio/segments.h"

namespace embervm::devices {
namespace {

constexpr std::string_view kHead =
    "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n"
    "createType=\"monolithicFlat\"\n\n# Extent description\n";

std::string WithExtents(std::string_view extents) {
  return std::string(kHead) + std::string(extents);
}

std::string ProblemOf(std::string_view text) {
  const auto descriptor = VmdkDescriptor::Parse(text);
  return descriptor ? "" : descriptor.error();
}

TEST_CASE("vmdk: a descriptor says of which files a disk consists") {
  const auto descriptor = VmdkDescriptor::Parse(
      WithExtents("RW 100 FLAT \"a b.vmdk\" 7\r\n  RDONLY 5 ZERO\r\nrw 3 flat \"c\"\n\n"
                  "# The Disk Data Base\n#DDB\nddb.adapterType = \"ide\"\n") +
      std::string(300, '\0'));
  REQUIRE(descriptor.has_value());
  REQUIRE(descriptor->extents.size() == 3);
  CHECK(descriptor->extents[0].writable);
  CHECK(descriptor->extents[0].sectors == 100);
  CHECK(descriptor->extents[0].file == "a b.vmdk");
  CHECK(descriptor->extents[0].offset == 7);
  CHECK_FALSE(descriptor->extents[1].writable);
  CHECK(descriptor->extents[1].file.empty());
  CHECK(descriptor->extents[2].file == "c");
  CHECK(descriptor->extents[2].offset == 0);
}

TEST_CASE("vmdk: a descriptor that is none, or of another kind, is refused with its reason") {
  CHECK(ProblemOf("").find("not the descriptor") != std::string::npos);
  CHECK(ProblemOf("KDMV\1").find("sparse") != std::string::npos);
  CHECK(ProblemOf(std::string(70000, '#')).find("too long") != std::string::npos);
  CHECK(ProblemOf(kHead).find("no extent") != std::string::npos);
  const std::array<std::pair<const char*, const char*>, 13> cases{{
      {"RW 0 FLAT \"a\"", "size"},
      {"RW -1 FLAT \"a\"", "size"},
      {"RW 99999999999999999999 FLAT \"a\"", "size"},
      {"RW 1 SPARSE \"a\"", "type SPARSE"},
      {"RW 1 FLAT a", "beside it"},
      {"RW 1 FLAT \"\"", "beside it"},
      {"RW 1 FLAT \"/etc/passwd\"", "beside it"},
      {"RW 1 FLAT \"../a\"", "beside it"},
      {"RW 1 FLAT \"..\"", "beside it"},
      {"RW 1 FLAT \"a\" x", "offset"},
      {"RW 1 ZERO \"a\"", "zeroes with a file"},
      {"NOACCESS 1 FLAT \"a\"", "without access"},
      {"what is this", "no known kind"},
  }};
  for (const auto& [line, reason] : cases) {
    CAPTURE(line);
    CHECK(ProblemOf(WithExtents(line)).find(reason) != std::string::npos);
  }
  const std::string extent = "RW 1 FLAT \"a\"\n";
  CHECK(ProblemOf(WithExtents(extent + "parentCID=12345678\n")).find("parent") !=
        std::string::npos);
  CHECK(ProblemOf(WithExtents(extent + "parentFileNameHint=\"/x\"\n")).find("parent") !=
        std::string::npos);
  CHECK(ProblemOf(WithExtents(extent + "createType=\"monolithicSparse\"\n")).find("type") !=
        std::string::npos);
  CHECK(ProblemOf(WithExtents(extent + "version=4\n")).find("version") != std::string::npos);
  std::string many;
  for (int i = 0; i < 257; ++i) many += extent;
  CHECK(ProblemOf(WithExtents(many)).find("256") != std::string::npos);
  const std::string huge = "RW 18014398509481984 ZERO\n";
  CHECK(ProblemOf(WithExtents(huge)).empty());
  CHECK(ProblemOf(WithExtents(huge + huge)).find("larger") != std::string::npos);
}

// A directory with a descriptor and its files.
class Directory {
 public:
  Directory() {
    path_ = (std::filesystem::temp_directory_path() / "embervm-vmdk-XXXXXX").string();
    REQUIRE(::mkdtemp(path_.data()) != nullptr);
  }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
  ~Directory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  [[nodiscard]] std::string At(std::string_view name) const {
    return path_ + "/" + std::string(name);
  }
  void Write(std::string_view name, std::string_view content) const {
    std::ofstream(At(name), std::ios::binary) << content;
  }
  [[nodiscard]] std::string Read(std::string_view name) const {
    std::ifstream file(At(name), std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  [[nodiscard]] std::string CodeOf(bool read_only) const {
    const auto disk = VmdkDisk::Open(At("disk.vmdk"), read_only, false);
    return disk.has_value() ? "" : std::string(disk.error().code());
  }

 private:
  std::string path_;
};

std::vector<virtio::Segment> Segments(std::string& bytes) {
  return {{.iov_base = bytes.data(), .iov_len = bytes.size()}};
}

// 2 sectors of `a` from its second on, then 3 of `b`.
void MakeTwoFiles(const Directory& directory) {
  directory.Write("a", std::string(512, 'x') + std::string(512, 'a') + std::string(512, 'A'));
  directory.Write("b", std::string(2048, 'b'));
  directory.Write("disk.vmdk", WithExtents("RW 2 FLAT \"a\" 1\nRW 3 FLAT \"b\" 0\n"));
}

TEST_CASE("vmdk: reads and writes go over the borders of files") {
  const Directory directory;
  MakeTwoFiles(directory);
  auto disk = VmdkDisk::Open(directory.At("disk.vmdk"), false, false);
  REQUIRE(disk.has_value());
  CHECK((*disk)->size() == 5 * 512);
  std::string bytes(2048, '?');
  std::uint64_t transferred = 0;
  CHECK((*disk)->Read(Segments(bytes), 0, transferred));
  CHECK(transferred == 2048);
  CHECK(bytes == std::string(512, 'a') + std::string(512, 'A') + std::string(1024, 'b'));

  std::string changed(1024, 'n');
  CHECK((*disk)->Write(Segments(changed), 512, true, transferred));
  CHECK(transferred == 1024);
  CHECK((*disk)->WriteZeroes(4 * 512, 512, true));
  CHECK((*disk)->Flush());
  CHECK(directory.Read("a") ==
        std::string(512, 'x') + std::string(512, 'a') + std::string(512, 'n'));
  // What is behind its part of the file stays.
  CHECK(directory.Read("b") == std::string(512, 'n') + std::string(512, 'b') +
                                   std::string(512, '\0') + std::string(512, 'b'));
}

TEST_CASE("vmdk: a read in one file that is in memory is at hand, one over a border is not") {
  const Directory directory;
  MakeTwoFiles(directory);
  auto disk = VmdkDisk::Open(directory.At("disk.vmdk"), true, false);
  REQUIRE(disk.has_value());
  std::string bytes(1024, '?');
  CHECK_FALSE((*disk)->ReadAtHand(Segments(bytes), 512));
  if ((*disk)->ReadAtHand(Segments(bytes), 0)) {
    CHECK(bytes == std::string(512, 'a') + std::string(512, 'A'));
  }
}

TEST_CASE("vmdk: an extent of zeroes is read, and nobody writes to such a disk") {
  const Directory directory;
  directory.Write("a", std::string(512, 'a'));
  directory.Write("disk.vmdk", WithExtents("RW 200 ZERO\nRW 1 FLAT \"a\"\n"));
  CHECK(directory.CodeOf(false) == "ERR_DRIVE_INVALID");
  auto disk = VmdkDisk::Open(directory.At("disk.vmdk"), true, false);
  REQUIRE(disk.has_value());
  std::string bytes(std::size_t{201} * 512, '?');
  std::uint64_t transferred = 0;
  CHECK((*disk)->Read(Segments(bytes), 0, transferred));
  CHECK(bytes == std::string(std::size_t{200} * 512, '\0') + std::string(512, 'a'));
}

TEST_CASE("vmdk: files that are not as the descriptor says are refused") {
  const Directory directory;
  MakeTwoFiles(directory);
  CHECK(directory.CodeOf(false).empty());
  directory.Write("b", std::string(1024, 'b'));
  CHECK(directory.CodeOf(true) == "ERR_DRIVE_INVALID");
  std::filesystem::remove(directory.At("b"));
  CHECK(directory.CodeOf(true) == "ERR_DRIVE_NOT_FOUND");
  // Also a link to a file that would do.
  directory.Write("c", std::string(2048, 'c'));
  std::filesystem::create_symlink("c", directory.At("b"));
  CHECK(directory.CodeOf(true) == "ERR_DRIVE_INVALID");
  std::filesystem::remove(directory.At("b"));
  std::filesystem::create_directory(directory.At("b"));
  CHECK(directory.CodeOf(true) == "ERR_DRIVE_INVALID");
  directory.Write("disk.vmdk", WithExtents("RDONLY 3 FLAT \"c\"\n"));
  CHECK(directory.CodeOf(true).empty());
  CHECK(directory.CodeOf(false) == "ERR_DRIVE_INVALID");
}

TEST_CASE("vmdk: one writes or many read, each of its files") {
  const Directory directory;
  MakeTwoFiles(directory);
  const auto writer = VmdkDisk::Open(directory.At("disk.vmdk"), false, false);
  REQUIRE(writer.has_value());
  CHECK(directory.CodeOf(true) == "ERR_DRIVE_BUSY");
  // Another image over one of its files.
  directory.Write("other.vmdk", WithExtents("RW 1 FLAT \"b\"\n"));
  CHECK_FALSE(VmdkDisk::Open(directory.At("other.vmdk"), false, false).has_value());
}

TEST_CASE("vmdk: a file that becomes shorter is an I/O error") {
  const Directory directory;
  MakeTwoFiles(directory);
  const auto disk = VmdkDisk::Open(directory.At("disk.vmdk"), true, false);
  REQUIRE(disk.has_value());
  REQUIRE(::truncate(directory.At("b").c_str(), 512) == 0);
  std::string bytes(std::size_t{5} * 512, '?');
  std::uint64_t transferred = 0;
  CHECK_FALSE((*disk)->Read(Segments(bytes), 0, transferred));
  CHECK(transferred == std::size_t{3} * 512);
}

}  // namespace
}  // namespace embervm::devices
