#include "pty/detach_keys.h"

#include <utility>

namespace embervm::pty {

DetachKeys::DetachKeys(std::vector<std::byte> sequence)
    : sequence_(std::move(sequence)), borders_(sequence_.size() + 1, 0) {
  std::size_t border = 0;
  for (std::size_t at = 1; at < sequence_.size(); at++) {
    while (border > 0 && sequence_[at] != sequence_[border]) border = borders_[border];
    if (sequence_[at] == sequence_[border]) border++;
    borders_[at + 1] = border;
  }
}

bool DetachKeys::Filter(std::span<const std::byte> typed, std::vector<std::byte>& passed) {
  for (const std::byte key : typed) {
    while (matched_ > 0 && key != sequence_[matched_]) {
      // The keys in front of the next possible beginning are ordinary ones.
      const std::size_t border = borders_[matched_];
      const auto first = sequence_.begin();
      passed.insert(passed.end(), first, first + static_cast<std::ptrdiff_t>(matched_ - border));
      matched_ = border;
    }
    if (sequence_.empty() || key != sequence_[matched_]) {
      passed.push_back(key);
      continue;
    }
    matched_++;
    if (matched_ == sequence_.size()) {
      matched_ = 0;
      return true;
    }
  }
  return false;
}

}  // namespace embervm::pty
