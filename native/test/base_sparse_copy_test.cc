// Copies that keep their holes.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "base/sparse_copy.h"
#include "base/unique_fd.h"
#include "test/support/temp_directory.h"

namespace embervm {
namespace {

using test::TempDirectory;

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::uint64_t AllocatedBytes(const std::string& path) {
  constexpr std::uint64_t kBlock = 512;
  struct stat status{};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  return static_cast<std::uint64_t>(status.st_blocks) * kBlock;
}

TEST_CASE("a sparse copy has the content and the holes") {
  const TempDirectory directory;
  std::filesystem::create_directories(directory.path());
  const std::string from = directory.path() + "/from";
  const std::string to = directory.path() + "/to";
  constexpr std::uintmax_t kSize = (std::uintmax_t{1} << 30U) + 123;
  {
    std::ofstream file(from, std::ios::binary);
    file << "begin";
    file.seekp(std::streamoff{1} << 24U);
    file << std::string(70'000, 'x');
  }
  std::filesystem::resize_file(from, kSize);
  for (const bool durable : {false, true}) {
    REQUIRE(CopySparse(from, to, durable).has_value());
    CHECK(std::filesystem::file_size(to) == kSize);
    CHECK(AllocatedBytes(to) < std::uint64_t{1} << 20U);
    struct stat status{};
    REQUIRE(::stat(to.c_str(), &status) == 0);
    CHECK((status.st_mode & 0777U) == 0600U);
    for (const std::string& path : {from, to}) {
      std::filesystem::resize_file(path, (std::uintmax_t{1} << 24U) + 80'000);
    }
    CHECK(ReadFile(from) == ReadFile(to));
    std::filesystem::resize_file(from, kSize);
    std::filesystem::remove(to);
  }
}

TEST_CASE("data is found between holes") {
  const TempDirectory directory;
  std::filesystem::create_directories(directory.path());
  const std::string path = directory.path() + "/file";
  constexpr std::uint64_t kData = std::uint64_t{1} << 24U;
  constexpr std::uint64_t kSize = std::uint64_t{1} << 30U;
  {
    std::ofstream file(path, std::ios::binary);
    file.seekp(static_cast<std::streamoff>(kData));
    file << std::string(70'000, 'x');
  }
  std::filesystem::resize_file(path, kSize);
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-vararg): open is variadic.
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  REQUIRE(fd.valid());
  const auto data = NextData(fd.get(), 0, kSize);
  REQUIRE(data.has_value());
  CHECK(data->begin <= kData);
  CHECK(data->begin > 0);
  CHECK(data->end >= kData + 70'000);
  CHECK(data->end < kSize);
  CHECK(!NextData(fd.get(), data->end, kSize).has_value());
  CHECK(!NextData(fd.get(), kSize, kSize).has_value());
  // A smaller size than the file has is the end all the same.
  CHECK(!NextData(fd.get(), 0, 4096).has_value());
  CHECK(NextData(fd.get(), kData, kData + 1)->end == kData + 1);
  // Whatever cannot be asked is data.
  const auto unknown = NextData(-1, 5, 10);
  REQUIRE(unknown.has_value());
  CHECK(unknown->begin == 5);
  CHECK(unknown->end == 10);
}

TEST_CASE("a sparse copy of nothing is empty") {
  const TempDirectory directory;
  std::filesystem::create_directories(directory.path());
  const std::string from = directory.path() + "/from";
  const std::string to = directory.path() + "/to";
  std::ofstream{from};
  REQUIRE(CopySparse(from, to, false).has_value());
  CHECK(std::filesystem::file_size(to) == 0);
}

TEST_CASE("a sparse copy replaces nothing and leaves nothing") {
  const TempDirectory directory;
  std::filesystem::create_directories(directory.path());
  const std::string from = directory.path() + "/from";
  const std::string to = directory.path() + "/to";
  const auto errno_of = [&](const std::string& source, const std::string& target) {
    const Result<> result = CopySparse(source, target, false);
    return result.has_value() ? 0 : result.error().errno_value();
  };
  CHECK(errno_of(from, to) == ENOENT);
  CHECK(!std::filesystem::exists(to));
  std::ofstream(from) << "new";
  std::ofstream(to) << "old";
  CHECK(errno_of(from, to) == EEXIST);
  CHECK(ReadFile(to) == "old");
  CHECK(errno_of(from, directory.path() + "/missing/to") == ENOENT);
  CHECK(errno_of(directory.path(), directory.path() + "/other") == EISDIR);
  CHECK(!std::filesystem::exists(directory.path() + "/other"));
}

}  // namespace
}  // namespace embervm
