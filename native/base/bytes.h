// Little-endian loads and stores on byte spans. x86 is little-endian, as are
// virtio 1.x and the boot protocol, so these are plain copies without aliasing.
#ifndef EMBERVM_BASE_BYTES_H_
#define EMBERVM_BASE_BYTES_H_

#include <bit>
#include <cstddef>
#include <cstring>
#include <span>
#include <type_traits>

namespace embervm {

static_assert(std::endian::native == std::endian::little);

// The caller has checked that `bytes` is long enough.
template <class T>
  requires std::is_trivially_copyable_v<T>
[[nodiscard]] T LoadLe(std::span<const std::byte> bytes, std::size_t offset = 0) {
  T value;
  std::memcpy(&value, bytes.subspan(offset, sizeof(T)).data(), sizeof(T));
  return value;
}

template <class T>
  requires std::is_trivially_copyable_v<T>
void StoreLe(std::span<std::byte> bytes, std::size_t offset, T value) {
  std::memcpy(bytes.subspan(offset, sizeof(T)).data(), &value, sizeof(T));
}

template <class T>
  requires std::is_trivially_copyable_v<T>
[[nodiscard]] std::span<const std::byte> AsBytes(const T& value) {
  return std::as_bytes(std::span<const T, 1>(&value, 1));
}

}  // namespace embervm

#endif  // EMBERVM_BASE_BYTES_H_
