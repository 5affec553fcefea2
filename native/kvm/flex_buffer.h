// FlexBuffer: storage for the KVM structs that end in an array.
#ifndef EMBERVM_KVM_FLEX_BUFFER_H_
#define EMBERVM_KVM_FLEX_BUFFER_H_

#include <cstddef>
#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

namespace embervm {

// `Header` is followed by `capacity` items of `Entry`, all zero at first.
template <class Header, class Entry>
  requires std::is_trivially_copyable_v<Header> && std::is_trivially_copyable_v<Entry>
class FlexBuffer {
 public:
  static_assert(sizeof(Header) % alignof(Entry) == 0);

  explicit FlexBuffer(std::size_t capacity) : storage_(sizeof(Header) + capacity * sizeof(Entry)) {}

  // The allocator aligns for every fundamental type, and bytes give storage to
  // implicit-lifetime objects.
  [[nodiscard]] Header* header() { return reinterpret_cast<Header*>(storage_.data()); }

  [[nodiscard]] std::vector<Entry> Entries(std::size_t count) const {
    std::vector<Entry> entries(count);
    const auto bytes = std::span(storage_).subspan(sizeof(Header), count * sizeof(Entry));
    if (!bytes.empty()) std::memcpy(entries.data(), bytes.data(), bytes.size());
    return entries;
  }
  void SetEntries(std::span<const Entry> entries) {
    const auto bytes = std::span(storage_).subspan(sizeof(Header), entries.size_bytes());
    if (!bytes.empty()) std::memcpy(bytes.data(), entries.data(), bytes.size());
  }

 private:
  std::vector<std::byte> storage_;
};

}  // namespace embervm

#endif  // EMBERVM_KVM_FLEX_BUFFER_H_
