// Arithmetic on numbers that a guest or a file chose: overflow is an answer.
#ifndef EMBERVM_BASE_CHECKED_H_
#define EMBERVM_BASE_CHECKED_H_

#include <concepts>
#include <optional>

namespace embervm {

template <std::unsigned_integral T>
[[nodiscard]] constexpr std::optional<T> CheckedAdd(T a, T b) {
  T sum{};
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}

template <std::unsigned_integral T>
[[nodiscard]] constexpr std::optional<T> CheckedMul(T a, T b) {
  T product{};
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}

// True when [offset, offset + length) lies inside [0, size). Never overflows.
[[nodiscard]] constexpr bool RangeFits(std::unsigned_integral auto offset,
                                       std::unsigned_integral auto length,
                                       std::unsigned_integral auto size) {
  return length <= size && offset <= size - length;
}

}  // namespace embervm

#endif  // EMBERVM_BASE_CHECKED_H_
