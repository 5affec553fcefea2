// TempFile: a file in a directory of its own that goes away with the test.
#ifndef EMBERVM_TEST_SUPPORT_TEMP_FILE_H_
#define EMBERVM_TEST_SUPPORT_TEMP_FILE_H_

#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "base/unique_fd.h"

namespace embervm::test {

class TempFile {
 public:
  explicit TempFile(std::uint64_t size) {
    std::string pattern = (std::filesystem::temp_directory_path() / "embervm-test-XXXXXX").string();
    REQUIRE(::mkdtemp(pattern.data()) != nullptr);
    directory_ = pattern;
    path_ = pattern + "/file";
    const UniqueFd fd(::open(path_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    REQUIRE(fd.valid());
    REQUIRE(::ftruncate(fd.get(), static_cast<off_t>(size)) == 0);
  }
  TempFile(const TempFile&) = delete;
  TempFile& operator=(const TempFile&) = delete;
  ~TempFile() {
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
  }

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] const std::string& directory() const { return directory_; }

  [[nodiscard]] std::vector<std::byte> Read(std::uint64_t offset, std::size_t length) const {
    std::vector<std::byte> bytes(length);
    const UniqueFd fd(::open(path_.c_str(), O_RDONLY | O_CLOEXEC));
    const ssize_t got = ::pread(fd.get(), bytes.data(), length, static_cast<off_t>(offset));
    bytes.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
    return bytes;
  }
  void Write(std::uint64_t offset, std::span<const std::byte> bytes) const {
    const UniqueFd fd(::open(path_.c_str(), O_WRONLY | O_CLOEXEC));
    REQUIRE(::pwrite(fd.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset)) ==
            static_cast<ssize_t>(bytes.size()));
  }

 private:
  std::string directory_;
  std::string path_;
};

}  // namespace embervm::test

#endif  // EMBERVM_TEST_SUPPORT_TEMP_FILE_H_
