// The tar reader by itself: what it hands on keeps to its promises, and the size of the chunks
// changes nothing.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "fuzz/device_harness.h"
#include "fuzz/image_harness.h"
#include "image/tar_reader.h"

namespace embervm::fuzz {
namespace {

class CheckingSink final : public image::TarSink {
 public:
  Result<> Begin(image::TarEntry&& entry) override {
    Require(!open_);
    open_ = true;
    Require(entry.path.find('\0') == std::string::npos);
    Require(entry.link.find('\0') == std::string::npos);
    Require(entry.path.size() <= kSmallLimits.max_path_bytes);
    Require(entry.size <= kSmallLimits.max_file_bytes);
    Require(entry.type == image::FileType::kRegular || entry.size == 0);
    Require(entry.attributes.mtime_nsec < 1'000'000'000);
    size_ = entry.size;
    end_ = 0;
    Note(entry.path.size() + entry.size);
    return {};
  }
  Result<> Data(std::uint64_t offset, std::span<const std::byte> bytes) override {
    Require(open_ && !bytes.empty());
    Require(offset >= end_ && bytes.size() <= size_ && offset <= size_ - bytes.size());
    end_ = offset + bytes.size();
    for (const std::byte byte : bytes) Note(std::to_integer<std::uint64_t>(byte));
    return {};
  }
  Result<> End() override {
    Require(open_);
    open_ = false;
    Note(1);
    return {};
  }
  [[nodiscard]] std::uint64_t digest() const { return digest_; }

 private:
  void Note(std::uint64_t value) { digest_ = digest_ * 31 + value; }

  bool open_ = false;
  std::uint64_t size_ = 0;
  std::uint64_t end_ = 0;
  std::uint64_t digest_ = 0;
};

struct Outcome {
  bool good = false;
  std::uint64_t digest = 0;
  bool operator==(const Outcome&) const = default;
};

Outcome Read(std::span<const std::byte> bytes, std::size_t chunk) {
  CheckingSink sink;
  image::TarReader reader(kSmallLimits, sink);
  while (!bytes.empty()) {
    const std::size_t count = std::min(chunk, bytes.size());
    if (!reader.Push(bytes.first(count)).has_value()) return {};
    bytes = bytes.subspan(count);
  }
  return {.good = reader.Finish().has_value(), .digest = sink.digest()};
}

}  // namespace
}  // namespace embervm::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace embervm::fuzz;  // NOLINT(google-build-using-namespace): one function.
  if (size == 0) return 0;
  const std::size_t chunk = std::size_t{data[0]} + 1;
  const auto text = std::as_bytes(std::span(data, size)).subspan(1);
  std::string archive(text.size(), '\0');
  std::ranges::copy(text, std::as_writable_bytes(std::span(archive)).begin());
  MendChecksums(archive);
  const auto bytes = std::as_bytes(std::span(archive));
  Require(Read(bytes, chunk) == Read(bytes, bytes.size() + 1));
  return 0;
}
