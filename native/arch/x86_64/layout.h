// Where things are in the guest's physical address space. Below 1 MiB it is the
// PC's map; devices sit in the gap below 4 GiB that GuestMemory leaves.
#ifndef EMBERVM_ARCH_X86_64_LAYOUT_H_
#define EMBERVM_ARCH_X86_64_LAYOUT_H_

#include <cstddef>
#include <cstdint>

#include "memory/guest_memory.h"

namespace embervm::layout {

inline constexpr std::uint64_t kPageSize = 4096;
inline constexpr std::uint64_t kMiB = std::uint64_t{1024} * 1024;

inline constexpr GuestAddr kGdt = 0x500;
inline constexpr GuestAddr kRandomSeed = 0x2000;
inline constexpr GuestAddr kPvhStartInfo = 0x6000;
inline constexpr GuestAddr kPvhModules = 0x6040;
inline constexpr GuestAddr kPvhMemoryMap = 0x6800;
inline constexpr GuestAddr kBootParams = 0x7000;
inline constexpr GuestAddr kBootStack = 0x8ff0;
// PML4, then the PDPT, then one page directory for each of the first 4 GiB.
inline constexpr GuestAddr kPageTables = 0x9000;
inline constexpr GuestAddr kCommandLine = 0x20000;
// What the 6.1 kernel takes (COMMAND_LINE_SIZE), terminating NUL included.
inline constexpr std::size_t kCommandLineSize = 2048;

// The last KiB of base memory: where the kernel looks for the MP table first
// (after the EBDA, of which there is none). It is reserved from here to 1 MiB.
inline constexpr GuestAddr kMpTable = 0x9fc00;
inline constexpr std::size_t kMpTableSize = 0x400;
inline constexpr GuestAddr kHighMemory = kMiB;

inline constexpr GuestAddr kIoApic = 0xfec0'0000;
inline constexpr GuestAddr kLocalApic = 0xfee0'0000;
// Three pages, as SetTssAddress() wants them.
inline constexpr GuestAddr kTss = 0xfffb'd000;

// virtio-mmio register pages, one 4 KiB page per device slot.
inline constexpr GuestAddr kMmioDevices = GuestMemory::kGapStart + 0x1000;
inline constexpr std::uint64_t kMmioDeviceSize = kPageSize;

// Interrupt lines 0-4 are the PC's (timer, keyboard, cascade, serial ports);
// the IOAPIC has 24 pins.
inline constexpr std::uint32_t kFirstDeviceIrq = 5;
inline constexpr std::uint32_t kIoApicPins = 24;
inline constexpr std::uint32_t kSerialIrq = 4;

inline constexpr std::uint16_t kSerialPort = 0x3f8;
// What one MP table of kMpTableSize holds: 20 bytes per CPU.
inline constexpr std::uint32_t kMaxVcpus = 32;

}  // namespace embervm::layout

#endif  // EMBERVM_ARCH_X86_64_LAYOUT_H_
