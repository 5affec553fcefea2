// TokenBucket: how much of something may be used in a time. It holds up to a burst and fills at a
// steady rate; whoever finds one in it may take as many as they need, and the next one waits
// until that is paid for. So nothing is ever too large to pass.
#ifndef EMBERVM_BASE_TOKEN_BUCKET_H_
#define EMBERVM_BASE_TOKEN_BUCKET_H_

#include <algorithm>
#include <cstdint>

namespace embervm {

struct RateLimit {
  // 0: as much as one likes.
  std::uint64_t per_second = 0;
  // What may be used at once after a rest, at least 1.
  std::uint64_t burst = 0;
};

class TokenBucket {
 public:
  // `now_ns` is of a clock that never goes back (MonotonicNs()). Full at first.
  TokenBucket(RateLimit limit, std::int64_t now_ns)
      : limit_(limit),
        burst_ns_(CostNs(std::max<std::uint64_t>(limit.burst, 1))),
        full_at_(now_ns) {}

  [[nodiscard]] bool unlimited() const { return limit_.per_second == 0; }
  // How long until something may be taken; 0: now.
  [[nodiscard]] std::int64_t WaitNs(std::int64_t now_ns) const {
    return std::max<std::int64_t>(full_at_ + CostNs(1) - now_ns - burst_ns_, 0);
  }
  // At most 2^32 at once.
  void Take(std::uint64_t amount, std::int64_t now_ns) {
    if (unlimited()) return;
    full_at_ = std::max(full_at_, now_ns) + CostNs(amount);
  }

 private:
  // How long it takes to fill by so much. In floating point: neither burst nor rate has a bound.
  [[nodiscard]] std::int64_t CostNs(std::uint64_t amount) const {
    if (unlimited()) return 1;
    constexpr double kNsPerSecond = 1e9;
    constexpr double kMostNs = 1e17;  // Three years.
    return static_cast<std::int64_t>(std::min(
        static_cast<double>(amount) * kNsPerSecond / static_cast<double>(limit_.per_second),
        kMostNs));
  }

  RateLimit limit_;
  std::int64_t burst_ns_;
  // When it would be full if nothing more were taken.
  std::int64_t full_at_;
};

}  // namespace embervm

#endif  // EMBERVM_BASE_TOKEN_BUCKET_H_
