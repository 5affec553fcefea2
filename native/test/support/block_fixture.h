// A drive on a file of its own, and a driver that has begun to use it.
#ifndef EMBERVM_TEST_SUPPORT_BLOCK_FIXTURE_H_
#define EMBERVM_TEST_SUPPORT_BLOCK_FIXTURE_H_

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "devices/block/device.h"
#include "devices/block/protocol.h"
#include "test/support/driver.h"
#include "test/support/temp_file.h"

namespace embervm::test {

inline constexpr std::uint64_t kDiskBytes = 1U << 20U;
inline constexpr std::uint64_t kSectors = kDiskBytes / 512;
inline constexpr std::uint32_t kNoStatus = 0xff;

struct BlockAnswer {
  std::uint32_t status;
  std::uint32_t used;
};

// One request with its header, its data buffers and a status byte of its own.
inline BlockAnswer SendBlockRequest(Driver& driver, std::uint32_t type, std::uint64_t sector,
                                    std::vector<DriverBuffer> data = {}, bool indirect = false) {
  const GuestAddr header = driver.PutStruct(
      devices::block::RequestHeader{.type = type, .reserved = 0, .sector = sector});
  const GuestAddr status = driver.PutStruct(static_cast<std::uint8_t>(kNoStatus));
  data.insert(data.begin(), {header, sizeof(devices::block::RequestHeader), false});
  data.push_back({status, 1, true});
  if (indirect) {
    driver.queue(0).AddIndirect(data);
  } else {
    driver.queue(0).Add(data);
  }
  driver.KickIfAsked(0);
  const std::uint32_t used = driver.WaitUsed(0).len;
  return {std::to_integer<std::uint32_t>(driver.Get(status, 1)[0]), used};
}

struct BlockFixture {
  explicit BlockFixture(bool read_only = false, std::uint64_t size = kDiskBytes)
      : BlockFixture(Options(read_only), size) {}
  explicit BlockFixture(devices::BlockOptions options, std::uint64_t size = kDiskBytes)
      : file(size),
        device(devices::BlockDevice::Open(OnFile(std::move(options), file.path())).value()) {
    driver.Start();
  }

  static devices::BlockOptions Options(bool read_only) {
    devices::BlockOptions options;
    options.read_only = read_only;
    return options;
  }
  static devices::BlockOptions OnFile(devices::BlockOptions options, const std::string& path) {
    options.id = "rootfs";
    options.path = path;
    return options;
  }

  BlockAnswer Request(std::uint32_t type, std::uint64_t sector, std::vector<DriverBuffer> data = {},
                      bool indirect = false) {
    return SendBlockRequest(driver, type, sector, std::move(data), indirect);
  }
  std::vector<std::byte> Pattern(std::size_t length, unsigned seed) {
    std::mt19937 random(seed);
    std::vector<std::byte> bytes(length);
    std::ranges::generate(bytes, [&] { return static_cast<std::byte>(random()); });
    return bytes;
  }
  std::uint64_t AllocatedBytes() const {
    struct stat status{};
    REQUIRE(::stat(file.path().c_str(), &status) == 0);
    return static_cast<std::uint64_t>(status.st_blocks) * 512;
  }

  TempFile file;
  std::unique_ptr<devices::BlockDevice> device;
  LoopThread thread;
  Driver driver{*device, thread};
};

}  // namespace embervm::test

#endif  // EMBERVM_TEST_SUPPORT_BLOCK_FIXTURE_H_
