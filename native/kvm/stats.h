// VcpuStats: counters of one vCPU from KVM_GET_STATS_FD. The file describes
// itself, so counters are found by name once and read in place afterwards.
#ifndef EMBERVM_KVM_STATS_H_
#define EMBERVM_KVM_STATS_H_

#include <cstdint>
#include <optional>

#include "base/result.h"
#include "base/unique_fd.h"

namespace embervm {

class VcpuStats {
 public:
  // Absent where the host does not count.
  struct Values {
    std::optional<std::uint64_t> exits;
    std::optional<std::uint64_t> emulated_instructions;
  };

  // Takes the statistics descriptor of a vCPU.
  static Result<VcpuStats> Create(UniqueFd fd);

  // Any thread; costs at most two pread(2).
  [[nodiscard]] Result<Values> Read() const;

 private:
  explicit VcpuStats(UniqueFd fd) : fd_(std::move(fd)) {}
  [[nodiscard]] Result<std::optional<std::uint64_t>> ReadAt(std::optional<off_t> offset) const;

  UniqueFd fd_;
  std::optional<off_t> exits_offset_;
  std::optional<off_t> emulated_offset_;
};

}  // namespace embervm

#endif  // EMBERVM_KVM_STATS_H_
