// XsaveImage: the vCPU's extended state as KVM_GET_XSAVE gives it: the standard
// format, with the component offsets of the host's CPUID leaf 0xD.
#ifndef EMBERVM_KVM_FIXUPS_XSAVE_IMAGE_H_
#define EMBERVM_KVM_FIXUPS_XSAVE_IMAGE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "base/bytes.h"
#include "kvm/abi.h"

namespace embervm::fixups {

// SDM volume 1 §13.4 and, for the legacy region, table 10-2.
inline constexpr std::size_t kFcwOffset = 0;
inline constexpr std::size_t kFswOffset = 2;
inline constexpr std::size_t kFtwOffset = 4;
inline constexpr std::size_t kFipOffset = 8;
inline constexpr std::size_t kFdpOffset = 16;
inline constexpr std::size_t kMxcsrOffset = 24;
inline constexpr std::size_t kMxcsrMaskOffset = 28;
inline constexpr std::size_t kStOffset = 32;
inline constexpr std::size_t kStSize = 16;
inline constexpr std::size_t kStCount = 8;
inline constexpr std::size_t kXmmOffset = 160;
inline constexpr std::size_t kXmmSize = 256;
inline constexpr std::size_t kHeaderOffset = 512;
inline constexpr std::size_t kHeaderSize = 64;

inline constexpr std::uint16_t kInitialFcw = 0x37f;
inline constexpr std::uint32_t kInitialMxcsr = 0x1f80;

class XsaveImage {
 public:
  explicit XsaveImage(const kvm_xsave& state) {
    std::memcpy(bytes_.data(), state.region, bytes_.size());
  }

  [[nodiscard]] kvm_xsave state() const {
    kvm_xsave state{};
    std::memcpy(state.region, bytes_.data(), bytes_.size());
    return state;
  }
  [[nodiscard]] std::span<std::byte> bytes() { return bytes_; }
  [[nodiscard]] std::span<const std::byte> bytes() const { return bytes_; }

  template <class T>
  [[nodiscard]] T Load(std::size_t offset) const {
    return LoadLe<T>(bytes(), offset);
  }
  template <class T>
  void Store(std::size_t offset, T value) {
    StoreLe(bytes(), offset, value);
  }

  // XSTATE_BV: which components are not in their initial state.
  [[nodiscard]] std::uint64_t in_use() const { return Load<std::uint64_t>(kHeaderOffset); }
  void set_in_use(std::uint64_t components) { Store(kHeaderOffset, components); }

 private:
  // Not the struct itself: it ends in an array without a size.
  std::array<std::byte, sizeof(kvm_xsave::region)> bytes_{};
};

}  // namespace embervm::fixups

#endif  // EMBERVM_KVM_FIXUPS_XSAVE_IMAGE_H_
