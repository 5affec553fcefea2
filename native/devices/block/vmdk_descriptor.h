// VmdkDescriptor: the text that says of which files a flat VMDK image consists (Virtual Disk
// Format 5.0, "The Descriptor File").
#ifndef EMBERVM_DEVICES_BLOCK_VMDK_DESCRIPTOR_H_
#define EMBERVM_DEVICES_BLOCK_VMDK_DESCRIPTOR_H_

#include <cstddef>
#include <cstdint>
#include <expected>
#include <string>
#include <string_view>
#include <vector>

namespace embervm::devices {

struct VmdkExtent {
  bool writable = false;
  std::uint64_t sectors = 0;
  // Empty: it reads as zeroes, and there is no file.
  std::string file;
  // In the file, in sectors.
  std::uint64_t offset = 0;
};

struct VmdkDescriptor {
  // A file is held open for each.
  static constexpr std::size_t kMaxExtents = 256;
  static constexpr std::size_t kMaxBytes = 65536;

  // In the order of the disk; all are checked: none is empty, and their sum is at most 2^54
  // sectors, which is 2^63 bytes.
  std::vector<VmdkExtent> extents;

  // The text may be anything. On an error what is wrong with it, as the end of a sentence.
  static std::expected<VmdkDescriptor, std::string> Parse(std::string_view text);
};

}  // namespace embervm::devices

#endif  // EMBERVM_DEVICES_BLOCK_VMDK_DESCRIPTOR_H_
