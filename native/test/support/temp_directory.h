// TempDirectory: a directory of the test's own, removed with what is in it.
#ifndef EMBERVM_TEST_SUPPORT_TEMP_DIRECTORY_H_
#define EMBERVM_TEST_SUPPORT_TEMP_DIRECTORY_H_

#include <cstdlib>
#include <filesystem>
#include <string>
#include <system_error>

namespace embervm::test {

class TempDirectory {
 public:
  TempDirectory() : path_("/tmp/embervm-test-XXXXXX") {
    if (::mkdtemp(path_.data()) == nullptr) std::abort();
  }
  TempDirectory(const TempDirectory&) = delete;
  TempDirectory& operator=(const TempDirectory&) = delete;
  ~TempDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace embervm::test

#endif  // EMBERVM_TEST_SUPPORT_TEMP_DIRECTORY_H_
