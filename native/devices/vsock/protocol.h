// virtio-vsock on the wire (virtio 1.2 §5.10).
#ifndef EMBERVM_DEVICES_VSOCK_PROTOCOL_H_
#define EMBERVM_DEVICES_VSOCK_PROTOCOL_H_

#include <cstddef>
#include <cstdint>

namespace embervm::devices::vsock {

// The layout has no padding, but 44 is no multiple of 8: hence packed.
struct [[gnu::packed]] Header {
  std::uint64_t src_cid;
  std::uint64_t dst_cid;
  std::uint32_t src_port;
  std::uint32_t dst_port;
  std::uint32_t len;
  std::uint16_t type;
  std::uint16_t op;
  std::uint32_t flags;
  std::uint32_t buf_alloc;
  std::uint32_t fwd_cnt;
};
static_assert(sizeof(Header) == 44);

inline constexpr std::uint64_t kHostCid = 2;

inline constexpr std::uint16_t kTypeStream = 1;

inline constexpr std::uint16_t kOpRequest = 1;
inline constexpr std::uint16_t kOpResponse = 2;
inline constexpr std::uint16_t kOpReset = 3;
inline constexpr std::uint16_t kOpShutdown = 4;
inline constexpr std::uint16_t kOpData = 5;
inline constexpr std::uint16_t kOpCreditUpdate = 6;
inline constexpr std::uint16_t kOpCreditRequest = 7;

// Flags of kOpShutdown, as the sender of the packet sees it.
inline constexpr std::uint32_t kShutdownReceive = 1;
inline constexpr std::uint32_t kShutdownSend = 2;
inline constexpr std::uint32_t kShutdownBoth = kShutdownReceive | kShutdownSend;

inline constexpr std::uint32_t kMaxPayload = 64 * 1024;

inline constexpr std::uint16_t kRxQueue = 0;
inline constexpr std::uint16_t kTxQueue = 1;
inline constexpr std::uint16_t kEventQueue = 2;

inline constexpr std::uint32_t kEventTransportReset = 0;

}  // namespace embervm::devices::vsock

#endif  // EMBERVM_DEVICES_VSOCK_PROTOCOL_H_
