// VcpuStats: counters of one vCPU from KVM_GET_STATS_FD. The file describes
// itself, so counters are found by name once and read in place afterwards.
#ifndef EMBERVM_KVM_STATS_H_
#define EMBERVM_KVM_STATS_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace embervm {

class VcpuStats {
 public:
  // Absent where the host does not count.
  struct Values {
    std::optional<std::uint64_t> exits;
    std::optional<std::uint64_t> emulated_instructions;
    // How long it was halted, in ns: until the last time that it woke, so a halt that lasts is
    // not in it yet.
    std::optional<std::uint64_t> halted_ns;
  };

  // Takes the statistics descriptor of a vCPU.
  static Result<VcpuStats> Create(UniqueFd fd);

  // Any thread; costs a pread(2) for each counter.
  [[nodiscard]] Result<Values> Read() const;

 private:
  explicit VcpuStats(UniqueFd fd) : fd_(std::move(fd)) {}
  [[nodiscard]] Result<std::optional<std::uint64_t>> ReadAt(std::optional<off_t> offset) const;
  [[nodiscard]] Result<std::optional<std::uint64_t>> ReadHalted() const;

  UniqueFd fd_;
  std::optional<off_t> exits_offset_;
  std::optional<off_t> emulated_offset_;
  // KVM counts a halt in parts: what it polls, with or without success, and what it sleeps.
  std::vector<off_t> halted_offsets_;
};

}  // namespace embervm

#endif  // EMBERVM_KVM_STATS_H_
