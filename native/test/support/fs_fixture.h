// A directory that is shared, the FUSE server on it, and a driver that has begun to talk.
#ifndef EMBERVM_TEST_SUPPORT_FS_FIXTURE_H_
#define EMBERVM_TEST_SUPPORT_FS_FIXTURE_H_

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>

#include "devices/fs/server.h"
#include "test/support/fuse_client.h"
#include "test/support/temp_directory.h"

namespace embervm::test {

struct FsFixture {
  explicit FsFixture(devices::FsOptions options = {}) {
    std::filesystem::create_directory(root);
    options.tag = "share";
    options.path = root;
    server = devices::fs::Server::Open(options).value();
    client = std::make_unique<FuseServerClient>(*server);
    REQUIRE(client->Init().error == 0);
  }
  void PutFile(const std::string& name, const std::string& content) const {
    std::ofstream(root + "/" + name) << content;
  }
  std::string GetFile(const std::string& name) const {
    std::ifstream file(root + "/" + name);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  struct stat Stat(const std::string& name) const {
    struct stat status{};
    REQUIRE(::lstat((root + "/" + name).c_str(), &status) == 0);
    return status;
  }

  TempDirectory directory;
  // Beside it is what must not be reached.
  std::string root = directory.path() + "/root";
  std::unique_ptr<devices::fs::Server> server;
  std::unique_ptr<FuseServerClient> client;
};

inline devices::FsOptions ReadOnlyShare() {
  devices::FsOptions options;
  options.read_only = true;
  return options;
}

inline devices::FsOptions ShareWithHostLocks() {
  devices::FsOptions options;
  options.host_locks = true;
  return options;
}

}  // namespace embervm::test

#endif  // EMBERVM_TEST_SUPPORT_FS_FIXTURE_H_
