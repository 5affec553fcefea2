// Constants and layouts of virtio 1.2: split rings, virtio-mmio registers, device
// status. Defined here because <linux/virtio_ring.h> does not compile as C++.
#ifndef EMBERVM_VIRTIO_ABI_H_
#define EMBERVM_VIRTIO_ABI_H_

#include <cstdint>

namespace embervm::virtio {

// virtio 1.2 §5.
inline constexpr std::uint32_t kDeviceIdNone = 0;
inline constexpr std::uint32_t kDeviceIdBlock = 2;
inline constexpr std::uint32_t kDeviceIdConsole = 3;
inline constexpr std::uint32_t kDeviceIdRng = 4;
inline constexpr std::uint32_t kDeviceIdBalloon = 5;
inline constexpr std::uint32_t kDeviceIdVsock = 19;
inline constexpr std::uint32_t kDeviceIdMem = 24;
inline constexpr std::uint32_t kDeviceIdFs = 26;

// virtio 1.2 §6: feature bits that belong to the transport and the rings.
inline constexpr std::uint64_t kFeatureIndirectDesc = std::uint64_t{1} << 28;
inline constexpr std::uint64_t kFeatureEventIdx = std::uint64_t{1} << 29;
inline constexpr std::uint64_t kFeatureVersion1 = std::uint64_t{1} << 32;
// Offered by the transport for every device.
inline constexpr std::uint64_t kRingFeatures =
    kFeatureVersion1 | kFeatureEventIdx | kFeatureIndirectDesc;

// virtio 1.2 §2.1.
inline constexpr std::uint32_t kStatusAcknowledge = 1;
inline constexpr std::uint32_t kStatusDriver = 2;
inline constexpr std::uint32_t kStatusDriverOk = 4;
inline constexpr std::uint32_t kStatusFeaturesOk = 8;
inline constexpr std::uint32_t kStatusNeedsReset = 0x40;
inline constexpr std::uint32_t kStatusFailed = 0x80;

// virtio 1.2 §2.7.5: one entry of the descriptor table.
struct Descriptor {
  std::uint64_t addr;
  std::uint32_t len;
  std::uint16_t flags;
  std::uint16_t next;
};
static_assert(sizeof(Descriptor) == 16);

inline constexpr std::uint16_t kDescNext = 1;
inline constexpr std::uint16_t kDescWrite = 2;
inline constexpr std::uint16_t kDescIndirect = 4;

// virtio 1.2 §2.7.8.
struct UsedElement {
  std::uint32_t id;
  std::uint32_t len;
};
static_assert(sizeof(UsedElement) == 8);

inline constexpr std::uint16_t kAvailNoInterrupt = 1;
inline constexpr std::uint16_t kUsedNoNotify = 1;

// virtio 1.2 §2.7: a size is a power of two of at most 32768.
inline constexpr std::uint16_t kQueueSizeLimit = 32768;

// virtio 1.2 §4.2.2: offsets into the register page.
enum Register : std::uint64_t {
  kRegMagic = 0x000,
  kRegVersion = 0x004,
  kRegDeviceId = 0x008,
  kRegVendorId = 0x00c,
  kRegDeviceFeatures = 0x010,
  kRegDeviceFeaturesSel = 0x014,
  kRegDriverFeatures = 0x020,
  kRegDriverFeaturesSel = 0x024,
  kRegQueueSel = 0x030,
  kRegQueueNumMax = 0x034,
  kRegQueueNum = 0x038,
  kRegQueueReady = 0x044,
  kRegQueueNotify = 0x050,
  kRegInterruptStatus = 0x060,
  kRegInterruptAck = 0x064,
  kRegStatus = 0x070,
  kRegQueueDescLow = 0x080,
  kRegQueueDescHigh = 0x084,
  kRegQueueDriverLow = 0x090,
  kRegQueueDriverHigh = 0x094,
  kRegQueueDeviceLow = 0x0a0,
  kRegQueueDeviceHigh = 0x0a4,
  kRegShmSel = 0x0ac,
  kRegShmLenLow = 0x0b0,
  kRegShmLenHigh = 0x0b4,
  kRegShmBaseLow = 0x0b8,
  kRegShmBaseHigh = 0x0bc,
  kRegConfigGeneration = 0x0fc,
  kRegConfig = 0x100,
};

inline constexpr std::uint32_t kMmioMagic = 0x74726976;  // "virt"
inline constexpr std::uint32_t kMmioVersion = 2;
inline constexpr std::uint32_t kMmioVendor = 0x56424d45;  // "EMBV"
inline constexpr std::uint64_t kMmioPageSize = 0x1000;

inline constexpr std::uint32_t kInterruptQueue = 1;
inline constexpr std::uint32_t kInterruptConfig = 2;

}  // namespace embervm::virtio

#endif  // EMBERVM_VIRTIO_ABI_H_
