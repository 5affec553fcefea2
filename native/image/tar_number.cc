#include "image/tar_number.h"

#include <limits>

namespace embervm::image {

namespace {

constexpr std::uint32_t kNanosecondsPerSecond = 1'000'000'000;

bool IsDigit(char letter) { return letter >= '0' && letter <= '9'; }

// The first byte holds the mark (0x80) and, in two's complement, the sign (0x40).
std::optional<std::int64_t> ParseBase256(std::span<const std::byte> field) {
  constexpr unsigned kMark = 0x80;
  constexpr unsigned kSign = 0x40;
  const auto first = std::to_integer<unsigned>(field[0]);
  const bool negative = (first & kSign) != 0;
  // Extended to 64 bits: every byte above must repeat the sign.
  const unsigned filler = negative ? 0xff : 0;
  std::uint64_t value = negative ? ~std::uint64_t{0} : 0;
  for (std::size_t i = 0; i < field.size(); ++i) {
    auto byte = std::to_integer<unsigned>(field[i]);
    if (i == 0) byte = negative ? byte | kMark : byte & ~kMark;
    if ((value >> 56U) != filler) return std::nullopt;
    value = value << 8U | byte;
  }
  const auto result = static_cast<std::int64_t>(value);
  if ((result < 0) != negative) return std::nullopt;
  return result;
}

}  // namespace

std::optional<std::int64_t> ParseTarNumber(std::span<const std::byte> field) {
  if (field.empty()) return 0;
  if ((std::to_integer<unsigned>(field[0]) & 0x80U) != 0) return ParseBase256(field);
  const auto is_blank = [](std::byte byte) {
    return byte == std::byte{' '} || byte == std::byte{};
  };
  while (!field.empty() && is_blank(field.front())) field = field.subspan(1);
  while (!field.empty() && is_blank(field.back())) field = field.first(field.size() - 1);
  std::uint64_t value = 0;
  for (const std::byte byte : field) {
    const auto digit = std::to_integer<unsigned>(byte) - unsigned{'0'};
    if (digit > 7 || (value >> 60U) != 0) return std::nullopt;
    value = value << 3U | digit;
  }
  return static_cast<std::int64_t>(value);
}

std::optional<std::uint64_t> ParseDecimal(std::string_view text) {
  if (text.empty()) return std::nullopt;
  std::uint64_t value = 0;
  for (const char letter : text) {
    if (!IsDigit(letter)) return std::nullopt;
    if (__builtin_mul_overflow(value, 10U, &value) ||
        __builtin_add_overflow(value, static_cast<unsigned>(letter - '0'), &value)) {
      return std::nullopt;
    }
  }
  return value;
}

std::optional<TarTime> ParsePaxTime(std::string_view text) {
  const bool negative = text.starts_with('-');
  if (negative) text.remove_prefix(1);
  const std::size_t dot = text.find('.');
  const auto whole = ParseDecimal(text.substr(0, dot));
  constexpr auto kMost = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()) / 2;
  if (!whole.has_value() || *whole > kMost) return std::nullopt;
  TarTime time{.seconds = static_cast<std::int64_t>(*whole)};
  if (dot != std::string_view::npos) {
    // Digits after the ninth are dropped, as everybody does.
    std::uint32_t unit = kNanosecondsPerSecond;
    for (const char letter : text.substr(dot + 1)) {
      if (!IsDigit(letter)) return std::nullopt;
      unit /= 10;
      time.nanoseconds += static_cast<std::uint32_t>(letter - '0') * unit;
    }
  }
  if (negative) {
    time.seconds = -time.seconds;
    if (time.nanoseconds > 0) {
      --time.seconds;
      time.nanoseconds = kNanosecondsPerSecond - time.nanoseconds;
    }
  }
  return time;
}

}  // namespace embervm::image
