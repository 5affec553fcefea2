// Loads and stores of what a file keeps in big-endian order, on byte spans.
#ifndef EMBERVM_BASE_BIG_ENDIAN_H_
#define EMBERVM_BASE_BIG_ENDIAN_H_

#include <bit>
#include <concepts>
#include <cstddef>
#include <span>

#include "base/bytes.h"

namespace embervm {

// The caller has checked that `bytes` is long enough.
template <std::unsigned_integral T>
[[nodiscard]] T LoadBe(std::span<const std::byte> bytes, std::size_t offset = 0) {
  return std::byteswap(LoadLe<T>(bytes, offset));
}

template <std::unsigned_integral T>
void StoreBe(std::span<std::byte> bytes, std::size_t offset, T value) {
  StoreLe(bytes, offset, std::byteswap(value));
}

}  // namespace embervm

#endif  // EMBERVM_BASE_BIG_ENDIAN_H_
