// StateWriter and StateReader: the saved state of a machine as a stream of plain
// values. The reader is for bytes of any content: past the end, or past a limit,
// it gives zeroes and is no longer ok(), so that a sequence of reads needs one
// check at its end.
#ifndef EMBERVM_BASE_STATE_STREAM_H_
#define EMBERVM_BASE_STATE_STREAM_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace embervm {

// What goes through a stream as it lies in memory: no pointers, and the writer's
// copy was zero-initialized where it has padding.
template <class T>
concept PlainState = std::is_trivially_copyable_v<T> && !std::is_pointer_v<T>;

class StateWriter {
 public:
  void Bytes(std::span<const std::byte> bytes) {
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
  }
  template <PlainState T>
  void Value(const T& value) {
    Bytes(AsBytes(value));
  }
  // The length goes first.
  void Blob(std::span<const std::byte> bytes) {
    Value(static_cast<std::uint64_t>(bytes.size()));
    Bytes(bytes);
  }
  void Text(std::string_view text) { Blob(std::as_bytes(std::span(text))); }
  // A structure of the kernel's, whose size says which version of it this is.
  template <PlainState T>
  void Struct(const T& value) {
    Blob(AsBytes(value));
  }
  template <PlainState T>
  void List(std::span<const T> values) {
    Value(static_cast<std::uint64_t>(values.size()));
    Bytes(std::as_bytes(values));
  }

  [[nodiscard]] std::span<const std::byte> bytes() const { return bytes_; }
  [[nodiscard]] std::vector<std::byte> Take() { return std::exchange(bytes_, {}); }

 private:
  std::vector<std::byte> bytes_;
};

class StateReader {
 public:
  explicit StateReader(std::span<const std::byte> bytes) : rest_(bytes) {}

  // Every read so far was inside the bytes and the limits.
  [[nodiscard]] bool ok() const { return ok_; }
  // The same, and nothing is left: what a complete state has to be.
  [[nodiscard]] bool Done() const { return ok_ && rest_.empty(); }

  // Views of `length` bytes; empty when there are fewer.
  std::span<const std::byte> Bytes(std::uint64_t length) {
    if (!ok_ || length > rest_.size()) {
      Fail();
      return {};
    }
    const auto bytes = rest_.first(static_cast<std::size_t>(length));
    rest_ = rest_.subspan(bytes.size());
    return bytes;
  }
  template <PlainState T>
  T Value() {
    const auto bytes = Bytes(sizeof(T));
    return bytes.empty() ? T{} : LoadLe<T>(bytes);
  }
  // One byte of any value but 0 or 1 is a broken state.
  bool Flag() {
    const auto value = Value<std::uint8_t>();
    if (value > 1) Fail();
    return value == 1;
  }
  std::span<const std::byte> Blob() { return Bytes(Value<std::uint64_t>()); }
  std::string Text(std::size_t max_length) {
    const auto bytes = Blob();
    if (bytes.size() > max_length) Fail();
    if (!ok_ || bytes.empty()) return {};
    std::string text(bytes.size(), '\0');
    std::memcpy(text.data(), bytes.data(), bytes.size());
    return text;
  }
  template <PlainState T>
  T Struct() {
    const auto bytes = Blob();
    if (bytes.size() != sizeof(T)) {
      Fail();
      return T{};
    }
    return LoadLe<T>(bytes);
  }
  template <PlainState T>
  std::vector<T> List(std::size_t max_count) {
    const std::uint64_t count = Count(max_count);
    const auto bytes = Bytes(count * sizeof(T));
    std::vector<T> values(bytes.size() / sizeof(T));
    if (!bytes.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }
  // How many items follow; 0 when that is more than `max_count`.
  std::uint64_t Count(std::size_t max_count) {
    const auto count = Value<std::uint64_t>();
    if (count <= max_count) return count;
    Fail();
    return 0;
  }
  // The value is not one that a machine of ours has.
  void Fail() {
    ok_ = false;
    rest_ = {};
  }

 private:
  std::span<const std::byte> rest_;
  bool ok_ = true;
};

// What every reader of a state answers to one that makes no sense.
inline Error InvalidState(std::string_view what) {
  return Error("ERR_SNAPSHOT_INVALID",
               "the state in the snapshot makes no sense: " + std::string(what));
}

}  // namespace embervm

#endif  // EMBERVM_BASE_STATE_STREAM_H_
