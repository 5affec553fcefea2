// The descriptor of a VMDK image, of any content.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "devices/block/vmdk_descriptor.h"

namespace {

void Require(bool holds) {
  if (!holds) __builtin_trap();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using embervm::devices::VmdkDescriptor;
  const auto descriptor = VmdkDescriptor::Parse({reinterpret_cast<const char*>(data), size});
  if (!descriptor) {
    Require(!descriptor.error().empty());
    return 0;
  }
  constexpr std::uint64_t kMost = std::uint64_t{1} << 54U;
  Require(!descriptor->extents.empty());
  Require(descriptor->extents.size() <= VmdkDescriptor::kMaxExtents);
  std::uint64_t sectors = 0;
  for (const auto& extent : descriptor->extents) {
    Require(extent.sectors > 0 && extent.offset <= kMost);
    Require(extent.file.find('/') == std::string_view::npos);
    Require(extent.file != ".." && extent.file != ".");
    sectors += extent.sectors;
    Require(sectors <= kMost);
  }
  return 0;
}
