#include "image/failure.h"

#include <cstddef>
#include <utility>

namespace embervm::image {

std::string Quoted(std::string_view bytes) {
  constexpr std::size_t kMost = 120;
  constexpr std::string_view kHex = "0123456789abcdef";
  std::string text = "\"";
  for (const char letter : bytes.substr(0, kMost)) {
    const auto code = static_cast<unsigned char>(letter);
    if (code >= 0x20 && code != 0x7f && letter != '"' && letter != '\\') {
      text += letter;
    } else {
      text += "\\x";
      text += kHex[code >> 4U];
      text += kHex[code & 0xfU];
    }
  }
  text += bytes.size() > kMost ? "…\"" : "\"";
  return text;
}

std::unexpected<Error> Invalid(std::string message) {
  return std::unexpected(Error("ERR_IMAGE_INVALID", std::move(message)));
}

std::unexpected<Error> OverLimit(std::string_view what, std::uint64_t limit) {
  return std::unexpected(
      Error("ERR_IMAGE_LIMIT", std::string(what) + ": the limit is " + std::to_string(limit))
          .With("limit", static_cast<std::int64_t>(limit)));
}

}  // namespace embervm::image
