// TinyKernel: an ELF64 executable with a few bytes of code, in a temporary file:
// the smallest guest that a whole machine can boot.
#ifndef EMBERVM_TEST_SUPPORT_TINY_KERNEL_H_
#define EMBERVM_TEST_SUPPORT_TINY_KERNEL_H_

#include <cstdint>
#include <initializer_list>
#include <string>

namespace embervm::test {

class TinyKernel {
 public:
  // `code` is 64-bit machine code, entered at CPL0 by the Linux boot protocol.
  explicit TinyKernel(std::initializer_list<std::uint8_t> code);
  TinyKernel(const TinyKernel&) = delete;
  TinyKernel& operator=(const TinyKernel&) = delete;
  ~TinyKernel();

  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace embervm::test

#endif  // EMBERVM_TEST_SUPPORT_TINY_KERNEL_H_
