// AtomicFile: a file that appears under its name when it is complete and on the disk, or never.
#ifndef EMBERVM_IMAGE_ATOMIC_FILE_H_
#define EMBERVM_IMAGE_ATOMIC_FILE_H_

#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace embervm::image {

class AtomicFile {
 public:
  // Next to `path` under a name of its own, "<path>.tmp-<16 hex digits>": what a crash leaves
  // can be told from what is complete.
  [[nodiscard]] static Result<AtomicFile> Create(const std::string& path);
  // A file without a name in the same directory, for what is needed only meanwhile.
  [[nodiscard]] static Result<UniqueFd> CreateScratch(const std::string& path);

  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&&) = delete;
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  // Without Commit(), nothing stays.
  ~AtomicFile();

  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] const std::string& temporary_path() const { return temporary_; }
  // Syncs, and replaces what is at `path`.
  [[nodiscard]] Result<> Commit();

 private:
  AtomicFile(UniqueFd fd, std::string path, std::string temporary);

  UniqueFd fd_;
  std::string path_;
  std::string temporary_;  // Empty: nothing to remove.
};

}  // namespace embervm::image

#endif  // EMBERVM_IMAGE_ATOMIC_FILE_H_
