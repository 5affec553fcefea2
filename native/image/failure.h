// The failures of image building. Names in an archive are hostile: they are quoted.
#ifndef EMBERVM_IMAGE_FAILURE_H_
#define EMBERVM_IMAGE_FAILURE_H_

#include <cstdint>
#include <expected>
#include <string>
#include <string_view>

#include "base/result.h"

namespace embervm::image {

// Printable, in quotes, and not long, whatever the bytes are.
[[nodiscard]] std::string Quoted(std::string_view bytes);

// ERR_IMAGE_INVALID: the archive is damaged, or asks for what no archive may.
[[nodiscard]] std::unexpected<Error> Invalid(std::string message);
// ERR_IMAGE_LIMIT.
[[nodiscard]] std::unexpected<Error> OverLimit(std::string_view what, std::uint64_t limit);

}  // namespace embervm::image

#endif  // EMBERVM_IMAGE_FAILURE_H_
