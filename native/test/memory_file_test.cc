// Guest memory to files and back: whole, in part, in layers, and files that lie.
#include "memory/memory_file.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/crc64.h"
#include "base/unique_fd.h"
#include "memory/guest_memory.h"
#include "test/support/temp_directory.h"

namespace embervm {
namespace {

using test::TempDirectory;

constexpr std::uint64_t kMemory = std::uint64_t{16} << 20U;
constexpr std::uint64_t kPage = GuestMemory::kPageSize;
const std::atomic<bool> kNotCancelled{false};

UniqueFd Open(const TempDirectory& directory, const std::string& name, int flags = O_RDONLY) {
  UniqueFd fd(::open((directory.path() + "/" + name).c_str(), flags | O_CLOEXEC, 0600));
  REQUIRE(fd.valid());
  return fd;
}

UniqueFd New(const TempDirectory& directory, const std::string& name) {
  return Open(directory, name, O_RDWR | O_CREAT | O_EXCL);
}

void Put(const GuestMemory& memory, GuestAddr addr, std::uint8_t value) {
  REQUIRE(memory.Fill(addr, 1, std::byte{value}).has_value());
}

std::uint8_t Get(const GuestMemory& memory, GuestAddr addr) {
  return std::to_integer<std::uint8_t>(memory.Slice(addr, 1)->front());
}

std::vector<GuestMemory::Extent> All(const GuestMemory& memory) {
  return {{.offset = 0, .length = memory.size()}};
}

std::vector<GuestMemory::Layer> Layers(UniqueFd file) {
  std::vector<GuestMemory::Layer> layers;
  layers.push_back({.file = std::move(file), .extents = {}});
  return layers;
}

std::string CodeOf(const Result<GuestMemory>& memory) {
  return memory.has_value() ? "" : memory.error().code();
}

TEST_CASE("the checksum is CRC-64/XZ") {
  const std::string text = "123456789";
  CHECK(Crc64(std::as_bytes(std::span(text))) == 0x995d'c9bb'df19'39fa);
  CHECK(Crc64({}) == 0);
}

TEST_CASE("memory comes back from its file, and the file takes no room for zeroes") {
  const TempDirectory directory;
  const GuestMemory memory = GuestMemory::Create(kMemory).value();
  Put(memory, 0, 1);
  Put(memory, 5 * kPage + 17, 2);
  Put(memory, kMemory - 1, 3);
  // Touched, but zero.
  Put(memory, 9 * kPage, 0);
  const UniqueFd file = New(directory, "whole");
  const auto report = WriteWholeMemory(memory, All(memory), file.get(), kNotCancelled);
  REQUIRE(report.has_value());
  CHECK(report->data_bytes == 3 * kPage);
  CHECK(report->extents.empty());
  struct stat status{};
  REQUIRE(::fstat(file.get(), &status) == 0);
  CHECK(status.st_size == kMemory);
  CHECK(status.st_blocks * 512 < 64 * 1024);

  const auto restored = GuestMemory::FromFiles(kMemory, Layers(Open(directory, "whole")));
  REQUIRE(restored.has_value());
  // What is in the page cache is nobody's until it is touched.
  CHECK(restored->ResidentBytes() == 0);
  CHECK(Get(*restored, 0) == 1);
  CHECK(Get(*restored, 5 * kPage + 17) == 2);
  CHECK(Get(*restored, kMemory - 1) == 3);
  CHECK(Get(*restored, 8 * kPage) == 0);
  // Its own from here on.
  Put(*restored, 0, 9);
  const auto twin = GuestMemory::FromFiles(kMemory, Layers(Open(directory, "whole")));
  CHECK(Get(*twin, 0) == 1);
}

TEST_CASE("only what changed is written, and lies over what was there") {
  const TempDirectory directory;
  {
    const GuestMemory memory = GuestMemory::Create(kMemory).value();
    for (std::uint64_t page = 0; page < 64; ++page) Put(memory, page * kPage, 1);
    const UniqueFd file = New(directory, "base");
    REQUIRE(WriteWholeMemory(memory, All(memory), file.get(), kNotCancelled).has_value());
  }
  std::vector<GuestMemory::Extent> extents;
  {
    const auto memory = GuestMemory::FromFiles(kMemory, Layers(Open(directory, "base"))).value();
    // Read, so that it is mapped, but unchanged.
    CHECK(Get(memory, 3 * kPage) == 1);
    Put(memory, 2 * kPage, 2);
    // A run that is long enough to be mapped, and one past the data of the base.
    for (std::uint64_t page = 20; page < 40; ++page) Put(memory, page * kPage, 3);
    Put(memory, 1000 * kPage, 4);
    // Back to zero: a hole in the new file that hides data of the old one.
    Put(memory, 50 * kPage, 0);
    const UniqueFd file = New(directory, "changed");
    auto report = WriteChangedMemory(memory, All(memory), file.get(), kNotCancelled);
    REQUIRE(report.has_value());
    CHECK(report->data_bytes == 22 * kPage);
    extents = report->extents;
    CHECK(extents.size() == 4);
  }
  std::vector<GuestMemory::Layer> layers = Layers(Open(directory, "base"));
  layers.push_back({.file = Open(directory, "changed"), .extents = extents});
  const auto memory = GuestMemory::FromFiles(kMemory, std::move(layers)).value();
  CHECK(Get(memory, 0) == 1);
  CHECK(Get(memory, 2 * kPage) == 2);
  CHECK(Get(memory, 19 * kPage) == 1);
  CHECK(Get(memory, 20 * kPage) == 3);
  CHECK(Get(memory, 39 * kPage) == 3);
  CHECK(Get(memory, 40 * kPage) == 1);
  CHECK(Get(memory, 50 * kPage) == 0);
  CHECK(Get(memory, 1000 * kPage) == 4);
  // All of it in one file again.
  const UniqueFd file = New(directory, "whole");
  const auto whole = WriteWholeMemory(memory, All(memory), file.get(), kNotCancelled);
  REQUIRE(whole.has_value());
  CHECK(whole->data_bytes == (63 + 1) * kPage);
}

TEST_CASE("what is not among the parts is neither looked at nor saved") {
  const TempDirectory directory;
  // Parts that are no multiple of what is looked at together, and end where another begins.
  const std::vector<GuestMemory::Extent> parts{
      {.offset = kPage, .length = 1025 * kPage},
      {.offset = 1026 * kPage, .length = kPage},
      {.offset = 2000 * kPage, .length = 2 * kPage},
  };
  const auto save = [&](const GuestMemory& memory, const std::string& name, auto write) {
    memory.Fill(0, kMemory, std::byte{7}).value();
    const UniqueFd file = New(directory, name);
    const MemoryFileReport report = write(memory, parts, file.get(), kNotCancelled).value();
    CHECK(report.data_bytes == 1028 * kPage);
    return report.extents;
  };
  const auto check = [&](const GuestMemory& memory, std::uint8_t elsewhere) {
    for (const std::uint64_t page : {1U, 1025U, 1026U, 2000U, 2001U}) {
      CHECK(Get(memory, page * kPage) == 7);
    }
    for (const std::uint64_t page : {0U, 1027U, 1999U, 2002U, 4095U}) {
      CHECK(Get(memory, page * kPage) == elsewhere);
    }
  };
  save(GuestMemory::Create(kMemory).value(), "whole", WriteWholeMemory);
  const GuestMemory memory =
      GuestMemory::FromFiles(kMemory, Layers(Open(directory, "whole"))).value();
  check(memory, 0);
  memory.Fill(0, kMemory, std::byte{1}).value();
  const auto extents = save(memory, "changed", WriteChangedMemory);
  CHECK(extents.size() == 2);
  std::vector<GuestMemory::Layer> layers = Layers(Open(directory, "whole"));
  layers.push_back({.file = Open(directory, "changed"), .extents = extents});
  check(GuestMemory::FromFiles(kMemory, std::move(layers)).value(), 0);
}

TEST_CASE("a memory file that is not what was declared is refused") {
  const TempDirectory directory;
  const UniqueFd file = New(directory, "file");
  REQUIRE(::ftruncate(file.get(), static_cast<off_t>(kMemory)) == 0);
  const auto open = [&] { return Open(directory, "file"); };
  CHECK(CodeOf(GuestMemory::FromFiles(kMemory, Layers(open()))).empty());
  CHECK(CodeOf(GuestMemory::FromFiles(kMemory + kPage, Layers(open()))) == "ERR_SNAPSHOT_INVALID");
  CHECK(CodeOf(GuestMemory::FromFiles(kMemory, {})) == "ERR_SNAPSHOT_INVALID");
  CHECK(CodeOf(GuestMemory::FromFiles(kMemory, Layers(Open(directory, ".")))) ==
        "ERR_SNAPSHOT_INVALID");
  for (const GuestMemory::Extent extent :
       {GuestMemory::Extent{.offset = 0, .length = 0},
        GuestMemory::Extent{.offset = 1, .length = kPage},
        GuestMemory::Extent{.offset = 0, .length = kMemory + kPage},
        GuestMemory::Extent{.offset = kMemory, .length = kPage},
        GuestMemory::Extent{.offset = UINT64_MAX - kPage + 1, .length = kPage}}) {
    std::vector<GuestMemory::Layer> layers = Layers(open());
    layers.push_back({.file = open(), .extents = {extent}});
    CHECK(CodeOf(GuestMemory::FromFiles(kMemory, std::move(layers))) == "ERR_SNAPSHOT_INVALID");
  }
}

TEST_CASE("saving memory says why it did not, and can be given up") {
  const TempDirectory directory;
  const GuestMemory memory = GuestMemory::Create(kMemory).value();
  Put(memory, 0, 1);
  const std::atomic<bool> cancelled{true};
  const UniqueFd file = New(directory, "file");
  CHECK(WriteWholeMemory(memory, All(memory), file.get(), cancelled).error().code() ==
        "ERR_MACHINE_CLOSED");
  // A disk that is full, as far as this descriptor goes.
  const UniqueFd full(::open("/dev/full", O_RDWR | O_CLOEXEC));
  const auto failed = WriteWholeMemory(memory, All(memory), full.get(), kNotCancelled);
  CHECK(failed.error().code() == "ERR_SNAPSHOT_WRITE");
}

}  // namespace
}  // namespace embervm
