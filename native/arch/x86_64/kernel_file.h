// KernelFile: a file that is read by whole ranges, straight into where the
// bytes belong. Every failure names the path.
#ifndef EMBERVM_ARCH_X86_64_KERNEL_FILE_H_
#define EMBERVM_ARCH_X86_64_KERNEL_FILE_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/unique_fd.h"

namespace embervm {

class KernelFile {
 public:
  // `what` is "kernel" or "initial RAM disk". Only regular files are taken:
  // opening a pipe or a device could block or do worse.
  static Result<KernelFile> Open(const std::string& path, std::string_view what);

  [[nodiscard]] std::uint64_t size() const { return size_; }

  // Fills `bytes` from `offset`, in bounded pieces; fails when the file ends first.
  [[nodiscard]] Result<> ReadAt(std::uint64_t offset, std::span<std::byte> bytes) const;

  // "kernel /path: what", with the code for files that are not what they should be.
  [[nodiscard]] Error Invalid(const std::string& problem) const;
  [[nodiscard]] Error TooLarge(const std::string& problem) const;

 private:
  KernelFile(UniqueFd fd, std::uint64_t size, std::string path, std::string_view what)
      : fd_(std::move(fd)), size_(size), path_(std::move(path)), what_(what) {}
  [[nodiscard]] Error MakeError(std::string_view code, const std::string& problem) const;

  UniqueFd fd_;
  std::uint64_t size_;
  std::string path_;
  std::string what_;
};

// "0x1f", as errors print addresses.
std::string Hex(std::uint64_t value);

}  // namespace embervm

#endif  // EMBERVM_ARCH_X86_64_KERNEL_FILE_H_
