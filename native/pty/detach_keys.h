// DetachKeys: finds the keys by which a person leaves a terminal in the stream of
// what is typed, however it is cut into reads. Keys that could begin the sequence
// are held back until the next one tells; what was typed otherwise passes whole.
#ifndef EMBERVM_PTY_DETACH_KEYS_H_
#define EMBERVM_PTY_DETACH_KEYS_H_

#include <cstddef>
#include <span>
#include <vector>

namespace embervm::pty {

class DetachKeys {
 public:
  // An empty sequence is never found.
  explicit DetachKeys(std::vector<std::byte> sequence);

  // Appends what passes of `typed` to `passed`, at most held() bytes more than it
  // has. True when the sequence is complete; what was typed behind it is dropped.
  bool Filter(std::span<const std::byte> typed, std::vector<std::byte>& passed);

  // How many bytes are held back.
  [[nodiscard]] std::size_t held() const { return matched_; }

 private:
  std::vector<std::byte> sequence_;
  // Knuth, Morris, Pratt: of the first n keys, how long a tail also begins the
  // sequence.
  std::vector<std::size_t> borders_;
  std::size_t matched_ = 0;
};

}  // namespace embervm::pty

#endif  // EMBERVM_PTY_DETACH_KEYS_H_
