// BlockRequest: one parsed and checked request, apart from the queue it came from, so
// that it can be executed anywhere.
#ifndef EMBERVM_DEVICES_BLOCK_REQUEST_H_
#define EMBERVM_DEVICES_BLOCK_REQUEST_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "devices/block/disk.h"
#include "devices/block/protocol.h"
#include "virtio/chain.h"
#include "virtio/segments.h"

namespace embervm::devices {

using BlockId = std::array<std::byte, block::kIdBytes>;

struct BlockResult {
  block::Status status = block::Status::kIoError;
  std::uint32_t type = 0;
  std::uint64_t transferred = 0;  // Data bytes read from or written to the disk.
  std::uint32_t used_length = 0;  // What the used ring is told.
};

class BlockRequest {
 public:
  // Takes the chain's segments.
  explicit BlockRequest(virtio::Chain& chain);

  // How much is read or written; nothing for other requests.
  [[nodiscard]] std::uint64_t DataBytes() const;
  // Each does the work and writes the status byte; one of them, once. `durable`: what changes the
  // disk is on it before the status is written.
  // Nothing where the disk may have to be waited for: Execute() is to do it then.
  std::optional<BlockResult> ExecuteAtHand(const Disk& disk, const BlockId& id, bool durable);
  BlockResult Execute(const Disk& disk, const BlockId& id, bool durable);

 private:
  // Whether the disk has nothing to do with it, or only copies.
  [[nodiscard]] bool NeedsNoWait(const Disk& disk, bool durable) const;
  // Writes the status byte; `written` bytes went to the start of the guest's buffer.
  BlockResult Finish(block::Status status, std::uint64_t transferred, std::uint64_t written);
  [[nodiscard]] block::Status Read(const Disk& disk, std::uint64_t& transferred);
  [[nodiscard]] block::Status Write(const Disk& disk, bool durable, std::uint64_t& transferred);
  // Where the data begins on the disk, or nothing when it is not wholly on it.
  [[nodiscard]] std::optional<std::uint64_t> DataOffset(const Disk& disk,
                                                        virtio::Segments data) const;
  [[nodiscard]] block::Status Flush(const Disk& disk) const;
  [[nodiscard]] block::Status GetId(const BlockId& id, std::uint64_t& written) const;
  [[nodiscard]] block::Status Ranges(const Disk& disk) const;
  // Readable, after the header.
  [[nodiscard]] virtio::Segments Input() const {
    return virtio::Segments(segments_).subspan(input_begin_, output_begin_ - input_begin_);
  }
  // Writable, before the status byte.
  [[nodiscard]] virtio::Segments Output() const {
    return virtio::Segments(segments_).subspan(output_begin_);
  }

  bool has_header_ = false;
  block::RequestHeader header_{};
  std::vector<virtio::Segment> segments_;
  std::size_t input_begin_ = 0;
  std::size_t output_begin_ = 0;
  std::uint64_t output_bytes_ = 0;  // What Output() has in all.
  std::byte* status_ = nullptr;     // Null when the driver gave no writable byte.
};

}  // namespace embervm::devices

#endif  // EMBERVM_DEVICES_BLOCK_REQUEST_H_
