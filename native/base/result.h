// Result<T>: every fallible call of the VMM returns one. An Error carries what
// the JS side needs to build a typed exception; nobody parses its message.
#ifndef EMBERVM_BASE_RESULT_H_
#define EMBERVM_BASE_RESULT_H_

#include <cstdint>
#include <expected>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace embervm {

class Error {
 public:
  using Value = std::variant<std::int64_t, std::string>;

  // `code` is one of the stable ERR_ codes of lib/errors.ts.
  Error(std::string_view code, std::string message) : code_(code), message_(std::move(message)) {}

  // A failed system call: `saved_errno` is errno as the call left it.
  static Error FromErrno(std::string_view code, std::string_view syscall, int saved_errno,
                         std::string_view what);

  Error&& With(std::string_view key, std::int64_t value) && {
    context_.emplace_back(key, value);
    return std::move(*this);
  }
  Error&& With(std::string_view key, std::string value) && {
    context_.emplace_back(key, std::move(value));
    return std::move(*this);
  }

  [[nodiscard]] const std::string& code() const { return code_; }
  [[nodiscard]] const std::string& message() const { return message_; }
  [[nodiscard]] const std::string& syscall() const { return syscall_; }
  // 0 when no system call failed.
  [[nodiscard]] int errno_value() const { return errno_value_; }
  [[nodiscard]] const std::vector<std::pair<std::string, Value>>& context() const {
    return context_;
  }

 private:
  std::string code_;
  std::string message_;
  std::string syscall_;
  int errno_value_ = 0;
  std::vector<std::pair<std::string, Value>> context_;
};

// "ENOENT" for 2, "E1234" for a number without a name.
std::string ErrnoName(int errno_value);

template <class T = void>
using Result = std::expected<T, Error>;

}  // namespace embervm

#define EMBERVM_CONCAT_INNER(a, b) a##b
#define EMBERVM_CONCAT(a, b) EMBERVM_CONCAT_INNER(a, b)

// Returns the error of a Result<void>-like expression to the caller.
#define EMBERVM_TRY(expression)                                    \
  do {                                                             \
    if (auto try_result = (expression); !try_result.has_value()) { \
      return std::unexpected(std::move(try_result).error());       \
    }                                                              \
  } while (false)

// EMBERVM_TRY_ASSIGN(auto fd, Open(path)): declares, or returns the error.
#define EMBERVM_TRY_ASSIGN_INNER(name, declaration, expression)           \
  auto name = (expression);                                               \
  if (!name.has_value()) return std::unexpected(std::move(name).error()); \
  declaration = std::move(name).value()
#define EMBERVM_TRY_ASSIGN(declaration, expression) \
  EMBERVM_TRY_ASSIGN_INNER(EMBERVM_CONCAT(try_result_, __LINE__), declaration, expression)

#endif  // EMBERVM_BASE_RESULT_H_
