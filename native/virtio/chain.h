// Chain: one buffer that the driver made available, as checked segments of guest
// memory. The readable part comes first (virtio 1.2 §2.7.4.2).
#ifndef EMBERVM_VIRTIO_CHAIN_H_
#define EMBERVM_VIRTIO_CHAIN_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "virtio/segments.h"

namespace embervm::virtio {

class Chain {
 public:
  explicit Chain(std::uint16_t head) : head_(head) { segments_.reserve(kUsualSegments); }

  // What goes back to the used ring.
  [[nodiscard]] std::uint16_t head() const { return head_; }

  // The driver broke the rules within this chain (a loop, an address outside RAM,
  // a readable descriptor after a writable one, …). Such a chain has no segments:
  // every device finds it too short and gives its head back with length 0.
  [[nodiscard]] bool malformed() const { return malformed_; }

  [[nodiscard]] Segments readable() const { return Segments(segments_).first(readable_count_); }
  [[nodiscard]] Segments writable() const { return Segments(segments_).subspan(readable_count_); }
  // Both parts, for whoever goes on with them; the two above are empty then.
  [[nodiscard]] std::vector<Segment> TakeSegments() {
    readable_count_ = 0;
    return std::exchange(segments_, {});
  }
  // The sum of both fits in 32 bits.
  [[nodiscard]] std::uint32_t readable_bytes() const { return readable_bytes_; }
  [[nodiscard]] std::uint32_t writable_bytes() const { return writable_bytes_; }

 private:
  friend class Queue;

  // Most chains are a header, data and a status: one allocation is enough for them.
  static constexpr std::size_t kUsualSegments = 4;

  // False when the order or the total length is wrong. Empty segments are dropped.
  bool Append(std::span<std::byte> bytes, bool writable);
  void MarkMalformed();

  std::uint16_t head_;
  bool malformed_ = false;
  std::size_t readable_count_ = 0;
  std::uint32_t readable_bytes_ = 0;
  std::uint32_t writable_bytes_ = 0;
  std::vector<Segment> segments_;
};

}  // namespace embervm::virtio

#endif  // EMBERVM_VIRTIO_CHAIN_H_
