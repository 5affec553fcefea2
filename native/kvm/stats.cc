#include "kvm/stats.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "kvm/abi.h"

namespace embervm {

namespace {

// What the kernel names the counters (arch/x86/kvm/x86.c, kvm_vcpu_stats_desc).
constexpr std::string_view kExits = "exits";
constexpr std::string_view kEmulatedInstructions = "insn_emulation";
// virt/kvm/kvm_main.c, kvm_vcpu_halt(): parts of a halt that do not overlap.
constexpr std::array<std::string_view, 3> kHalted = {"halt_poll_success_ns", "halt_poll_fail_ns",
                                                     "halt_wait_ns"};

// A kernel has about 50 counters with names of 48 bytes.
constexpr std::uint32_t kMaxCounters = 4096;
constexpr std::uint32_t kMaxNameSize = 4096;

Result<> ReadExactly(int fd, std::span<std::byte> bytes, off_t offset) {
  const ssize_t count = ::pread(fd, bytes.data(), bytes.size(), offset);
  if (count < 0) {
    return std::unexpected(Error::FromErrno("ERR_KVM_IOCTL", "pread", errno, "vCPU statistics"));
  }
  if (static_cast<std::size_t>(count) != bytes.size()) {
    return std::unexpected(Error("ERR_KVM_IOCTL", "the vCPU statistics file is short"));
  }
  return {};
}

}  // namespace

Result<VcpuStats> VcpuStats::Create(UniqueFd fd) {
  VcpuStats stats(std::move(fd));
  kvm_stats_header header{};
  EMBERVM_TRY(ReadExactly(stats.fd_.get(),
                          std::as_writable_bytes(std::span<kvm_stats_header, 1>(&header, 1)), 0));
  if (header.num_desc > kMaxCounters || header.name_size > kMaxNameSize) {
    return std::unexpected(Error("ERR_KVM_IOCTL", "the vCPU statistics file has no sane size"));
  }
  const std::size_t stride = sizeof(kvm_stats_desc) + header.name_size;
  std::vector<std::byte> descriptors(stride * header.num_desc);
  EMBERVM_TRY(ReadExactly(stats.fd_.get(), descriptors, off_t{header.desc_offset}));

  for (std::size_t i = 0; i < header.num_desc; ++i) {
    const auto bytes = std::span<const std::byte>(descriptors).subspan(i * stride, stride);
    const auto descriptor = LoadLe<kvm_stats_desc>(bytes);
    std::string_view name(reinterpret_cast<const char*>(bytes.data()) + sizeof(kvm_stats_desc),
                          header.name_size);
    name = name.substr(0, name.find('\0'));
    const off_t offset = off_t{header.data_offset} + off_t{descriptor.offset};
    if (name == kExits) stats.exits_offset_ = offset;
    if (name == kEmulatedInstructions) stats.emulated_offset_ = offset;
    if (std::ranges::find(kHalted, name) != kHalted.end()) stats.halted_offsets_.push_back(offset);
  }
  return stats;
}

Result<std::optional<std::uint64_t>> VcpuStats::ReadAt(std::optional<off_t> offset) const {
  if (!offset) return std::optional<std::uint64_t>();
  std::uint64_t value = 0;
  EMBERVM_TRY(ReadExactly(fd_.get(), std::as_writable_bytes(std::span<std::uint64_t, 1>(&value, 1)),
                          *offset));
  return std::optional(value);
}

Result<std::optional<std::uint64_t>> VcpuStats::ReadHalted() const {
  if (halted_offsets_.size() != kHalted.size()) return std::optional<std::uint64_t>();
  std::uint64_t sum = 0;
  for (const off_t offset : halted_offsets_) {
    EMBERVM_TRY_ASSIGN(const auto part, ReadAt(offset));
    sum += part.value_or(0);
  }
  return std::optional(sum);
}

Result<VcpuStats::Values> VcpuStats::Read() const {
  Values values;
  EMBERVM_TRY_ASSIGN(values.exits, ReadAt(exits_offset_));
  EMBERVM_TRY_ASSIGN(values.emulated_instructions, ReadAt(emulated_offset_));
  EMBERVM_TRY_ASSIGN(values.halted_ns, ReadHalted());
  return values;
}

}  // namespace embervm
