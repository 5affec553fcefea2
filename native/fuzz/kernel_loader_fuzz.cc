// Any bytes as a kernel file, and as an initial RAM disk: the loader writes
// inside guest memory or says no.
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "arch/x86_64/boot_params.h"
#include "arch/x86_64/loader.h"
#include "base/unique_fd.h"
#include "memory/guest_memory.h"

namespace {

using embervm::GuestMemory;

constexpr std::uint64_t kMemorySize = 32U << 20U;

// What the loader promises of a kernel that it took.
void CheckKernel(const GuestMemory& memory, const embervm::LoadedKernel& kernel) {
  if (!memory.Slice(kernel.entry64, 1)) std::abort();
  if (kernel.pvh_entry && !memory.Slice(*kernel.pvh_entry, 1)) std::abort();
  if (kernel.end > kMemorySize) std::abort();
  if (kernel.setup_header && kernel.setup_header->size > embervm::kSetupHeaderMaxSize) {
    std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const auto memory = GuestMemory::Create(kMemorySize);
  if (!memory) std::abort();
  const embervm::UniqueFd file(::memfd_create("kernel", MFD_CLOEXEC));
  if (!file.valid() || ::write(file.get(), data, size) != static_cast<ssize_t>(size)) return 0;
  const std::string path = "/proc/self/fd/" + std::to_string(file.get());

  const auto kernel = embervm::LoadKernel(*memory, path);
  if (!kernel) {
    if (kernel.error().message().find(path) == std::string::npos) std::abort();
    return 0;
  }
  CheckKernel(*memory, *kernel);
  std::optional<embervm::LoadedInitrd> initrd;
  if (const auto loaded = embervm::LoadInitrd(*memory, path, kernel->end); loaded) {
    if (loaded->start < kernel->end || !memory->Slice(loaded->start, loaded->size)) std::abort();
    initrd = *loaded;
  }
  if (!embervm::WriteBootParams(*memory, kernel->setup_header, initrd)) std::abort();
  return 0;
}
