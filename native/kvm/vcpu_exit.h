// VcpuExit: why KVM_RUN returned, as one variant. Spans point into the vCPU's
// shared kvm_run page and are valid until the next Run(); what is written to a
// read's span is what the guest gets.
#ifndef EMBERVM_KVM_VCPU_EXIT_H_
#define EMBERVM_KVM_VCPU_EXIT_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <variant>

#include "memory/guest_memory.h"

namespace embervm {

struct MmioRead {
  GuestAddr addr;
  std::span<std::byte> data;
};

struct MmioWrite {
  GuestAddr addr;
  std::span<const std::byte> data;
};

// `data` holds `count` items of `size` bytes, one after the other (ins, outs).
struct IoIn {
  std::uint16_t port;
  std::uint8_t size;
  std::uint32_t count;
  std::span<std::byte> data;
};

struct IoOut {
  std::uint16_t port;
  std::uint8_t size;
  std::uint32_t count;
  std::span<const std::byte> data;
};

// A signal or immediate_exit; the access of the exit before is complete.
struct Interrupted {};

// Triple fault: the guest asked for a reset, or broke its descriptor tables.
struct Shutdown {};

// HLT without an in-kernel interrupt controller.
struct Halt {};

// `type` is one of KVM_SYSTEM_EVENT_*.
struct SystemEvent {
  std::uint32_t type;
};

// KVM could not emulate the instruction at `rip`.
struct EmulationFailure {
  static constexpr std::size_t kMaxBytes = 15;
  std::uint64_t rip;
  // What KVM had fetched; it may stop short of the instruction's end.
  std::array<std::byte, kMaxBytes> bytes;
  std::size_t size;
};

// KVM_EXIT_INTERNAL_ERROR for another reason; `data` is for the report.
struct InternalError {
  static constexpr std::size_t kMaxData = 16;
  std::uint32_t suberror;
  std::array<std::uint64_t, kMaxData> data;
  std::size_t size;
};

// The hardware refused the vCPU's state.
struct FailEntry {
  std::uint64_t reason;
};

// An exit that nobody asked for; `reason` is KVM_EXIT_*.
struct UnknownExit {
  std::uint32_t reason;
};

using VcpuExit = std::variant<MmioRead, MmioWrite, IoIn, IoOut, Interrupted, Shutdown, Halt,
                              SystemEvent, EmulationFailure, InternalError, FailEntry, UnknownExit>;

}  // namespace embervm

#endif  // EMBERVM_KVM_VCPU_EXIT_H_
