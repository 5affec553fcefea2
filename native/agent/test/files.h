// A directory that is gone when the test is over.
#pragma once

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

namespace embervm::agent_test {

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    char name[] = "/tmp/embervm-agent-test-XXXXXX";
    REQUIRE(mkdtemp(name) != nullptr);
    path_ = name;
    // Processes of other users look in.
    chmod(name, 0755);
  }
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  const std::string& path() const { return path_; }
  std::string Write(const std::string& name, const std::string& content, mode_t mode) const {
    const std::string file = path_ + "/" + name;
    std::filesystem::create_directories(std::filesystem::path(file).parent_path());
    std::ofstream(file, std::ios::binary) << content;
    chmod(file.c_str(), mode);
    return file;
  }

 private:
  std::string path_;
};

}  // namespace embervm::agent_test
