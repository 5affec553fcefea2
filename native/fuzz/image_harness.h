// What the fuzzers of images share: a way past the checksums, and limits that keep inputs fast.
#ifndef EMBERVM_FUZZ_IMAGE_HARNESS_H_
#define EMBERVM_FUZZ_IMAGE_HARNESS_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>

#include "image/limits.h"

namespace embervm::fuzz {

inline constexpr image::ImageLimits kSmallLimits = {.max_entries = 200,
                                                    .max_path_bytes = 4096,
                                                    .max_depth = 16,
                                                    .max_file_bytes = 1U << 20U,
                                                    .max_total_bytes = 1U << 22U,
                                                    .max_metadata_bytes = 1U << 20U,
                                                    .max_image_bytes = 1U << 21U,
                                                    .max_layers = 4};

// Mutations would hardly ever meet a checksum: every block that says "ustar" gets the right one.
inline void MendChecksums(std::string& archive) {
  constexpr std::size_t kBlock = 512;
  constexpr std::size_t kField = 148;
  constexpr std::size_t kFieldBytes = 8;
  constexpr std::size_t kMagic = 257;
  for (std::size_t at = 0; at + kBlock <= archive.size(); at += kBlock) {
    if (std::string_view(archive).substr(at + kMagic, 5) != "ustar") continue;
    std::fill_n(archive.begin() + static_cast<std::ptrdiff_t>(at + kField), kFieldBytes, ' ');
    std::uint32_t sum = 0;
    for (const char letter : std::string_view(archive).substr(at, kBlock)) {
      sum += static_cast<unsigned char>(letter);
    }
    for (std::size_t digit = 6; digit > 0; --digit, sum >>= 3U) {
      archive[at + kField + digit - 1] = static_cast<char>('0' + (sum & 7U));
    }
    archive[at + kField + 6] = '\0';
  }
}

}  // namespace embervm::fuzz

#endif  // EMBERVM_FUZZ_IMAGE_HARNESS_H_
