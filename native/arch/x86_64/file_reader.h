// FileReader: bounded reads of an untrusted image file, with errors that name it.
#ifndef EMBERVM_ARCH_X86_64_FILE_READER_H_
#define EMBERVM_ARCH_X86_64_FILE_READER_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "base/result.h"
#include "base/unique_fd.h"

namespace embervm {

class FileReader {
 public:
  // `what` names the file's role in messages: "guest kernel". ERR_KERNEL_NOT_FOUND
  // when it cannot be opened, ERR_KERNEL_INVALID when it is no regular file.
  static Result<FileReader> Open(const std::string& path, std::string what);

  [[nodiscard]] std::uint64_t size() const { return size_; }

  // Exactly `bytes.size()` bytes from `offset`; a file that ends before is truncated:
  // ERR_KERNEL_INVALID.
  Result<> ReadAt(std::uint64_t offset, std::span<std::byte> bytes) const;

  template <class T>
  Result<T> ReadObject(std::uint64_t offset) const {
    T object{};
    EMBERVM_TRY(ReadAt(offset, std::as_writable_bytes(std::span<T, 1>(&object, 1))));
    return object;
  }

  // An error about the file's contents or place, naming the file.
  [[nodiscard]] Error MakeError(std::string_view code, std::string_view problem) const;

 private:
  FileReader(UniqueFd fd, std::uint64_t size, std::string path, std::string what)
      : fd_(std::move(fd)), size_(size), path_(std::move(path)), what_(std::move(what)) {}

  UniqueFd fd_;
  std::uint64_t size_;
  std::string path_;
  std::string what_;
};

}  // namespace embervm

#endif  // EMBERVM_ARCH_X86_64_FILE_READER_H_
