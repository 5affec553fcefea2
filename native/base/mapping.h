// Mapping: owner of one mmap(2) region.
#ifndef EMBERVM_BASE_MAPPING_H_
#define EMBERVM_BASE_MAPPING_H_

#include <sys/mman.h>

#include <cerrno>
#include <cstddef>
#include <span>
#include <string_view>
#include <utility>

#include "base/result.h"

namespace embervm {

class Mapping {
 public:
  Mapping() = default;
  Mapping(Mapping&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Mapping& operator=(Mapping&& other) noexcept {
    if (this != &other) {
      Reset();
      data_ = std::exchange(other.data_, nullptr);
      size_ = std::exchange(other.size_, 0);
    }
    return *this;
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() { Reset(); }

  static Result<Mapping> Create(std::size_t size, int protection, int flags, int fd, off_t offset,
                                std::string_view what) {
    void* const data = ::mmap(nullptr, size, protection, flags, fd, offset);
    if (data == MAP_FAILED) {
      return std::unexpected(Error::FromErrno("ERR_OUT_OF_MEMORY", "mmap", errno, what));
    }
    Mapping mapping;
    mapping.data_ = static_cast<std::byte*>(data);
    mapping.size_ = size;
    return mapping;
  }

  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] std::span<std::byte> bytes() const { return {data_, size_}; }

  void Reset() {
    if (data_ != nullptr) ::munmap(data_, size_);
    data_ = nullptr;
    size_ = 0;
  }

 private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace embervm

#endif  // EMBERVM_BASE_MAPPING_H_
