// qcow2 images that lie, and what a guest may ask for on them.
#include <fuzzer/FuzzedDataProvider.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "devices/block/qcow2_disk.h"
#include "fuzz/device_harness.h"
#include "test/support/qcow2_image.h"

namespace embervm::fuzz {
namespace {

constexpr std::uint64_t kDiskBytes = 65536;
constexpr std::uint32_t kClusterBits = 9;
constexpr std::size_t kMaxRequestBytes = 8192;
// All that a disk of any size could take within one input, with room.
constexpr std::uint64_t kMostGrowth = std::uint64_t{1} << 30U;

const UniqueFd& File() {
  static const UniqueFd file(::memfd_create("qcow2", MFD_CLOEXEC));
  return file;
}

std::uint64_t FileBytes() {
  struct stat status{};
  Require(::fstat(File().get(), &status) == 0);
  return static_cast<std::uint64_t>(status.st_size);
}

// A good image, with a used table, of which the input changes some bytes.
std::vector<std::byte> Image(FuzzedDataProvider& input) {
  test::Qcow2Image image(kDiskBytes, kClusterBits, input.ConsumeBool() ? 3 : 2);
  const std::uint64_t l2 = image.Append(std::byte{0});
  image.Put<std::uint64_t>(image.l1(), l2 | devices::qcow2::kCopied);
  for (std::uint64_t entry = 0; entry < 8; ++entry) {
    image.Put<std::uint64_t>(l2 + entry * 8, image.Append(std::byte{0x5a}));
  }
  std::vector<std::byte> bytes = image.bytes();
  const auto changes = input.ConsumeIntegralInRange<int>(0, 16);
  for (int change = 0; change < changes; ++change) {
    const auto offset = input.ConsumeIntegralInRange<std::size_t>(0, bytes.size() - 8);
    StoreBe<std::uint64_t>(bytes, offset, input.ConsumeIntegral<std::uint64_t>());
  }
  return bytes;
}

void Run(FuzzedDataProvider& input) {
  const std::vector<std::byte> bytes = Image(input);
  Require(::ftruncate(File().get(), 0) == 0);
  Require(::pwrite(File().get(), bytes.data(), bytes.size(), 0) ==
          static_cast<ssize_t>(bytes.size()));
  const auto opened = devices::Qcow2Disk::Open("/proc/self/fd/" + std::to_string(File().get()),
                                               input.ConsumeBool(), false);
  if (!opened) return;
  const devices::Disk& disk = **opened;
  Require(disk.size() != 0 && disk.size() % 512 == 0);
  static std::vector<std::byte> data(kMaxRequestBytes);
  constexpr int kMaxRequests = 32;
  for (int i = 0; i < kMaxRequests && input.remaining_bytes() > 0; ++i) {
    const std::uint64_t sectors = disk.size() / 512;
    const auto sector = input.ConsumeIntegralInRange<std::uint64_t>(0, sectors - 1);
    const std::uint64_t most = std::min<std::uint64_t>(sectors - sector, kMaxRequestBytes / 512);
    const std::uint64_t length = input.ConsumeIntegralInRange<std::uint64_t>(1, most) * 512;
    std::uint64_t transferred = 0;
    bool done = false;
    switch (input.ConsumeIntegralInRange<int>(0, 4)) {
      case 0:
        done = disk.Read({{.iov_base = data.data(), .iov_len = length}}, sector * 512, transferred);
        break;
      case 1:
        if (disk.read_only()) break;
        done = disk.Write({{.iov_base = data.data(), .iov_len = length}}, sector * 512, false,
                          transferred);
        break;
      case 2:
        if (!disk.read_only()) done = disk.Discard(sector * 512, length);
        break;
      case 3:
        if (!disk.read_only()) done = disk.WriteZeroes(sector * 512, length, true);
        break;
      default:
        done = disk.Flush();
        break;
    }
    Require(transferred <= length && (!done || transferred == 0 || transferred == length));
  }
  Require(!disk.read_only() || FileBytes() == bytes.size());
  Require(FileBytes() <= bytes.size() + kMostGrowth);
}

}  // namespace
}  // namespace embervm::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzedDataProvider input(data, size);
  embervm::fuzz::Run(input);
  return 0;
}
