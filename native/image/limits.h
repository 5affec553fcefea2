// ImageLimits: what an archive may make us keep, write and compute. Archives are hostile.
#ifndef EMBERVM_IMAGE_LIMITS_H_
#define EMBERVM_IMAGE_LIMITS_H_

#include <cstddef>
#include <cstdint>

namespace embervm::image {

inline constexpr std::size_t kMaxNameBytes = 255;       // NAME_MAX
inline constexpr std::size_t kMaxLinkBytes = 4095;      // PATH_MAX without its NUL
inline constexpr std::uint64_t kMaxXattrBytes = 65536;  // per file, as encoded

struct ImageLimits {
  // Of all layers together, with the directories that no entry names.
  std::uint64_t max_entries = 1'000'000;
  std::uint64_t max_path_bytes = 4096;
  std::uint64_t max_depth = 128;
  // Of one file, with its holes.
  std::uint64_t max_file_bytes = std::uint64_t{5} << 30U;
  // Of all files of all layers, with their holes, also of those that a later layer removes.
  std::uint64_t max_total_bytes = std::uint64_t{10} << 30U;
  // Names, link targets and extended attributes: they are held in memory.
  std::uint64_t max_metadata_bytes = std::uint64_t{256} << 20U;
  std::uint64_t max_image_bytes = std::uint64_t{16} << 30U;
  std::uint64_t max_layers = 512;
};

}  // namespace embervm::image

#endif  // EMBERVM_IMAGE_LIMITS_H_
