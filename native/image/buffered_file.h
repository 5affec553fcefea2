// BufferedFile: positioned writes to a file that is all zero, gathered while they follow one
// another. What is skipped stays a hole where it is long.
#ifndef EMBERVM_IMAGE_BUFFERED_FILE_H_
#define EMBERVM_IMAGE_BUFFERED_FILE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/result.h"

namespace embervm::image {

class BufferedFile {
 public:
  // `fd` stays the caller's; `path` is for messages.
  BufferedFile(int fd, std::string path);

  [[nodiscard]] Result<> Write(std::uint64_t offset, std::span<const std::byte> bytes);
  [[nodiscard]] Result<> Flush();
  // Flushes, and fills what lies beyond the end with zeros.
  [[nodiscard]] Result<> Read(std::uint64_t offset, std::span<std::byte> bytes);
  // Zeros that take no room on the disk where the file system can do that.
  [[nodiscard]] Result<> Clear(std::uint64_t offset, std::uint64_t length);
  [[nodiscard]] Result<> Resize(std::uint64_t bytes);

 private:
  [[nodiscard]] Result<> WriteNow(std::uint64_t offset, std::span<const std::byte> bytes);

  int fd_;
  std::string path_;
  std::unique_ptr<std::byte[]> buffer_;
  std::uint64_t begin_ = 0;
  std::size_t filled_ = 0;
  std::uint64_t high_ = 0;  // The end of all that was written.
  std::uint64_t unsynced_ = 0;
};

}  // namespace embervm::image

#endif  // EMBERVM_IMAGE_BUFFERED_FILE_H_
