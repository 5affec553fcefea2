// Numbers of tar headers: octal or base-256 fields, and decimals in pax records.
#ifndef EMBERVM_IMAGE_TAR_NUMBER_H_
#define EMBERVM_IMAGE_TAR_NUMBER_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace embervm::image {

// A field of a header: octal with blanks or NULs around it, or big-endian base-256 with the top
// bit set (GNU tar). Empty is 0. None: not a number, or not one of 64 bits.
[[nodiscard]] std::optional<std::int64_t> ParseTarNumber(std::span<const std::byte> field);

// Digits only, all of `text`.
[[nodiscard]] std::optional<std::uint64_t> ParseDecimal(std::string_view text);

struct TarTime {
  std::int64_t seconds = 0;
  std::uint32_t nanoseconds = 0;
};

// "-12.5": seconds with a sign and a fraction, as in POSIX pax. The nanoseconds count upwards.
[[nodiscard]] std::optional<TarTime> ParsePaxTime(std::string_view text);

}  // namespace embervm::image

#endif  // EMBERVM_IMAGE_TAR_NUMBER_H_
