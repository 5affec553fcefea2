#include "arch/x86_64/random_seed.h"

#include <sys/random.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "arch/x86_64/layout.h"
#include "base/bytes.h"

namespace embervm {

namespace {

constexpr std::uint32_t kSetupRngSeed = 9;
// What the kernel's pool takes in full.
constexpr std::size_t kSeedBytes = 32;

struct SetupData {
  std::uint64_t next;
  std::uint32_t type;
  std::uint32_t length;
  std::array<std::byte, kSeedBytes> seed;
};
static_assert(sizeof(SetupData) == 16 + kSeedBytes);

}  // namespace

Result<> WriteRandomSeed(const GuestMemory& memory) {
  SetupData data{.next = 0, .type = kSetupRngSeed, .length = kSeedBytes, .seed = {}};
  // Never short below 256 bytes once the host's pool is ready (getrandom(2)).
  if (::getrandom(data.seed.data(), data.seed.size(), 0) != static_cast<ssize_t>(kSeedBytes)) {
    return std::unexpected(
        Error::FromErrno("ERR_INTERNAL", "getrandom", errno, "random seed of the guest"));
  }
  Result<> written = memory.Write(layout::kRandomSeed, AsBytes(data));
  ::explicit_bzero(&data, sizeof(data));
  return written;
}

}  // namespace embervm
