#include "base/crc64.h"

#include <array>

namespace embervm {

namespace {

constexpr std::size_t kByteValues = 256;
constexpr unsigned kBitsPerByte = 8;

// ECMA-182's polynomial, bits reversed.
constexpr std::uint64_t kPolynomial = 0xc96c'5795'd787'0f42;

constexpr std::array<std::uint64_t, kByteValues> MakeTable() {
  std::array<std::uint64_t, kByteValues> table{};
  for (std::size_t value = 0; value < table.size(); ++value) {
    std::uint64_t remainder = value;
    for (unsigned bit = 0; bit < kBitsPerByte; ++bit) {
      remainder = (remainder >> 1U) ^ ((remainder & 1U) != 0 ? kPolynomial : 0);
    }
    table.at(value) = remainder;
  }
  return table;
}

constexpr std::array<std::uint64_t, kByteValues> kTable = MakeTable();

}  // namespace

std::uint64_t Crc64(std::span<const std::byte> bytes) {
  std::uint64_t crc = ~std::uint64_t{0};
  for (const std::byte byte : bytes) {
    const auto index = static_cast<std::uint8_t>(crc) ^ std::to_integer<std::uint8_t>(byte);
    crc = kTable.at(static_cast<std::size_t>(index)) ^ (crc >> kBitsPerByte);
  }
  return ~crc;
}

}  // namespace embervm
