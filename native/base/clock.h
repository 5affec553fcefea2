// The monotonic clock as a plain number.
#ifndef EMBERVM_BASE_CLOCK_H_
#define EMBERVM_BASE_CLOCK_H_

#include <chrono>
#include <cstdint>

namespace embervm {

// CLOCK_MONOTONIC in nanoseconds.
inline std::int64_t MonotonicNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace embervm

#endif  // EMBERVM_BASE_CLOCK_H_
