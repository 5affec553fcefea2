// The small types of base/: arithmetic, bytes, errors, owners.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <limits>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/mapping.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace embervm {
namespace {

constexpr auto kMax = std::numeric_limits<std::uint64_t>::max();

static_assert(CheckedAdd<std::uint32_t>(1, 2) == 3U);
static_assert(!CheckedAdd<std::uint32_t>(0xffffffff, 1));
static_assert(CheckedMul<std::uint64_t>(1U << 31U, 1U << 31U) == std::uint64_t{1} << 62U);
static_assert(!CheckedMul<std::uint64_t>(kMax, 2));
static_assert(RangeFits(0U, 0U, 0U));
static_assert(RangeFits(4U, 4U, 8U));
static_assert(!RangeFits(5U, 4U, 8U));
static_assert(!RangeFits(kMax, kMax, kMax));
static_assert(!RangeFits(std::uint64_t{1}, kMax, kMax));
static_assert(RangeFits(kMax, std::uint64_t{0}, kMax));

TEST_CASE("little-endian loads and stores") {
  std::array<std::byte, 8> bytes{};
  StoreLe(bytes, 1, std::uint32_t{0x04030201});
  CHECK(bytes[1] == std::byte{1});
  CHECK(bytes[4] == std::byte{4});
  CHECK(LoadLe<std::uint16_t>(bytes, 2) == 0x0302);
  CHECK(LoadLe<std::uint64_t>(bytes) == 0x0000'0004'0302'0100);
}

TEST_CASE("errors carry code, errno, syscall and context") {
  const Error error = Error::FromErrno("ERR_TEST", "open", ENOENT, "/x")
                          .With("path", "/x")
                          .With("size", std::int64_t{7});
  CHECK(error.code() == "ERR_TEST");
  CHECK(error.errno_value() == ENOENT);
  CHECK(error.syscall() == "open");
  CHECK(error.message() == "/x: No such file or directory (ENOENT from open)");
  CHECK(error.context().size() == 2);
  CHECK(ErrnoName(EAGAIN) == "EAGAIN");
  CHECK(ErrnoName(123456) == "E123456");
  CHECK(Error("ERR_TEST", "text").errno_value() == 0);
}

Result<int> Fail() { return std::unexpected(Error("ERR_TEST", "no")); }
Result<int> Twice(Result<int> input) {
  EMBERVM_TRY_ASSIGN(const int value, std::move(input));
  return value * 2;
}
Result<> Pass(Result<int> input) {
  EMBERVM_TRY(input);
  return {};
}

TEST_CASE("the TRY macros return the first error") {
  CHECK(*Twice(21) == 42);
  CHECK(Twice(Fail()).error().message() == "no");
  CHECK(Pass(1).has_value());
  CHECK(Pass(Fail()).error().code() == "ERR_TEST");
}

bool IsOpen(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }

TEST_CASE("UniqueFd closes once") {
  int number = -1;
  {
    UniqueFd fd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    number = fd.get();
    UniqueFd moved(std::move(fd));
    CHECK(IsOpen(number));
    UniqueFd other(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    const int replaced = other.get();
    other = std::move(moved);
    CHECK(!IsOpen(replaced));
    CHECK(other.get() == number);
    UniqueFd& self = other;
    other = std::move(self);
    CHECK(IsOpen(number));
  }
  CHECK(!IsOpen(number));
  UniqueFd released(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const UniqueFd keeper(released.Release());
  CHECK(!released.valid());
  CHECK(IsOpen(keeper.get()));
}

bool IsMapped(const void* address) {
  unsigned char residency = 0;
  return ::mincore(const_cast<void*>(address), 1, &residency) == 0;
}

TEST_CASE("Mapping unmaps once") {
  const std::byte* address = nullptr;
  {
    auto mapping =
        Mapping::Create(8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, "test");
    REQUIRE(mapping.has_value());
    address = mapping->data();
    Mapping moved(std::move(*mapping));
    CHECK(moved.size() == 8192);
    moved = Mapping(std::move(moved));
    CHECK(IsMapped(address));
    CHECK(moved.bytes().size() == 8192);
  }
  CHECK(!IsMapped(address));
  const auto failed = Mapping::Create(4096, PROT_READ, MAP_SHARED, -1, 0, "nothing");
  REQUIRE(!failed.has_value());
  CHECK(failed.error().code() == "ERR_OUT_OF_MEMORY");
  CHECK(failed.error().errno_value() == EBADF);
}

}  // namespace
}  // namespace embervm
