// Layers of any content, made into an image: whatever comes out is a file system that a reader
// which shares no code with the writer finds without fault, and the same each time.
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "fuzz/device_harness.h"
#include "fuzz/image_harness.h"
#include "image/builder.h"
#include "test/support/erofs_image.h"

namespace embervm::fuzz {
namespace {

// In memory, where there is such a place: every image is synced.
const std::string& ImagePath() {
  static const std::string path = [] {
    const std::string parent = std::filesystem::exists("/dev/shm") ? "/dev/shm" : "/tmp";
    const std::string directory = parent + "/embervm-image-fuzz-" + std::to_string(::getpid());
    std::filesystem::create_directories(directory);
    return directory + "/image";
  }();
  return path;
}

// Made after the path, so that it goes before it.
struct CleanUp {
  CleanUp() { static_cast<void>(ImagePath()); }
  CleanUp(const CleanUp&) = delete;
  CleanUp& operator=(const CleanUp&) = delete;
  ~CleanUp() {
    std::error_code ignored;
    std::filesystem::remove_all(std::filesystem::path(ImagePath()).parent_path(), ignored);
  }
};

Result<image::ErofsReport> Build(std::span<const std::byte> bytes, std::size_t layer_bytes,
                                 std::size_t chunk) {
  EMBERVM_TRY_ASSIGN(const std::unique_ptr<image::ImageBuilder> builder,
                     image::ImageBuilder::Create(ImagePath(), kSmallLimits));
  do {
    EMBERVM_TRY(builder->BeginLayer());
    std::span<const std::byte> layer = bytes.first(std::min(layer_bytes, bytes.size()));
    bytes = bytes.subspan(layer.size());
    while (!layer.empty()) {
      const std::size_t count = std::min(chunk, layer.size());
      EMBERVM_TRY(builder->Push(layer.first(count)));
      layer = layer.subspan(count);
    }
    EMBERVM_TRY(builder->EndLayer());
  } while (!bytes.empty());
  return builder->Commit();
}

std::optional<std::string> BuildAndRead(std::span<const std::byte> bytes, std::size_t layer_bytes,
                                        std::size_t chunk) {
  const Result<image::ErofsReport> report = Build(bytes, layer_bytes, chunk);
  const std::filesystem::path directory = std::filesystem::path(ImagePath()).parent_path();
  const auto files = std::distance(std::filesystem::directory_iterator(directory), {});
  if (!report.has_value()) {
    Require(report.error().code().find("IMAGE") == 4);
    Require(files == 0);
    return std::nullopt;
  }
  Require(files == 1);
  std::string image;
  {
    std::ifstream file(ImagePath(), std::ios::binary);
    image.assign(std::istreambuf_iterator<char>(file), {});
  }
  std::filesystem::remove(ImagePath());
  Require(image.size() == report->image_bytes && image.size() <= kSmallLimits.max_image_bytes);
  const test::ErofsImage read(std::as_bytes(std::span(image)));
  Require(read.error().empty());
  return image;
}

}  // namespace
}  // namespace embervm::fuzz

// The first byte is the size of the chunks, the second that of the layers in blocks.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace embervm::fuzz;  // NOLINT(google-build-using-namespace): one function.
  static const CleanUp clean_up;
  if (size < 2) return 0;
  constexpr std::size_t kBlock = 512;
  const std::size_t chunk = std::size_t{data[0]} + 1;
  const std::size_t layer_bytes = (std::size_t{data[1]} + 1) * kBlock;
  const auto text = std::as_bytes(std::span(data, size)).subspan(2);
  std::string archive(text.size(), '\0');
  std::ranges::copy(text, std::as_writable_bytes(std::span(archive)).begin());
  MendChecksums(archive);
  const auto bytes = std::as_bytes(std::span(archive));
  const auto once = BuildAndRead(bytes, layer_bytes, chunk);
  Require(once == BuildAndRead(bytes, layer_bytes, layer_bytes));
  return 0;
}
