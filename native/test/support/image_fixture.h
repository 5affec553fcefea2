// BuiltImage: layers made into an image in a directory of the test's own, and read back.
#ifndef EMBERVM_TEST_SUPPORT_IMAGE_FIXTURE_H_
#define EMBERVM_TEST_SUPPORT_IMAGE_FIXTURE_H_

#include <algorithm>
#include <cstddef>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "image/builder.h"
#include "test/support/erofs_image.h"
#include "test/support/temp_directory.h"

namespace embervm::test {

class BuiltImage {
 public:
  // In chunks of `chunk` bytes; 0 is all at once.
  explicit BuiltImage(const std::vector<std::string>& layers, std::size_t chunk = 0,
                      const image::ImageLimits& limits = {})
      : path_(directory_.path() + "/image.erofs") {
    Result<image::ErofsReport> result = Build(layers, chunk, limits);
    if (!result.has_value()) {
      error_ = result.error().message();
      code_ = result.error().code();
      return;
    }
    std::ifstream file(path_, std::ios::binary);
    bytes_.assign(std::istreambuf_iterator<char>(file), {});
    read_.emplace(std::as_bytes(std::span(bytes_)));
    error_ = read_->error();
  }

  [[nodiscard]] bool good() const { return read_.has_value() && error_.empty(); }
  [[nodiscard]] const std::string& error() const { return error_; }
  // Of a build that failed.
  [[nodiscard]] const std::string& code() const { return code_; }
  [[nodiscard]] const std::string& bytes() const { return bytes_; }
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] const std::string& directory() const { return directory_.path(); }
  [[nodiscard]] const ErofsFile* find(const std::string& path) const {
    return read_.has_value() ? read_->find(path) : nullptr;
  }
  // What is in a directory, with blanks between; "-" where there is no such directory.
  [[nodiscard]] std::string list(const std::string& path) const {
    const ErofsFile* const file = find(path);
    if (file == nullptr) return "-";
    std::string text;
    for (const std::string& name : file->names) text += (text.empty() ? "" : " ") + name;
    return text;
  }
  [[nodiscard]] std::string content(const std::string& path) const {
    const ErofsFile* const file = find(path);
    return file == nullptr ? "(none)" : file->content;
  }

 private:
  Result<image::ErofsReport> Build(const std::vector<std::string>& layers, std::size_t chunk,
                                   const image::ImageLimits& limits) const {
    EMBERVM_TRY_ASSIGN(const std::unique_ptr<image::ImageBuilder> builder,
                       image::ImageBuilder::Create(path_, limits));
    for (const std::string& layer : layers) {
      EMBERVM_TRY(builder->BeginLayer());
      std::span<const std::byte> rest = std::as_bytes(std::span(layer));
      while (!rest.empty()) {
        const std::size_t count = chunk == 0 ? rest.size() : std::min(chunk, rest.size());
        EMBERVM_TRY(builder->Push(rest.first(count)));
        rest = rest.subspan(count);
      }
      EMBERVM_TRY(builder->EndLayer());
    }
    return builder->Commit();
  }

  TempDirectory directory_;
  std::string path_;
  std::string error_;
  std::string code_;
  std::string bytes_;
  std::optional<ErofsImage> read_;
};

}  // namespace embervm::test

#endif  // EMBERVM_TEST_SUPPORT_IMAGE_FIXTURE_H_
