#include "test/support/tiny_kernel.h"

#include <elf.h>
#include <unistd.h>

#include <cstdlib>
#include <vector>

namespace embervm::test {

namespace {

constexpr std::uint64_t kLoadAddress = 0x100000;

void Append(std::vector<std::uint8_t>& file, const auto& value) {
  const auto* const bytes = reinterpret_cast<const std::uint8_t*>(&value);
  file.insert(file.end(), bytes, bytes + sizeof(value));
}

}  // namespace

TinyKernel::TinyKernel(std::initializer_list<std::uint8_t> code) {
  constexpr std::uint64_t kCodeOffset = sizeof(Elf64_Ehdr) + sizeof(Elf64_Phdr);
  Elf64_Ehdr header{};
  header.e_ident[EI_MAG0] = ELFMAG0;
  header.e_ident[EI_MAG1] = ELFMAG1;
  header.e_ident[EI_MAG2] = ELFMAG2;
  header.e_ident[EI_MAG3] = ELFMAG3;
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_ident[EI_VERSION] = EV_CURRENT;
  header.e_type = ET_EXEC;
  header.e_machine = EM_X86_64;
  header.e_version = EV_CURRENT;
  header.e_entry = kLoadAddress;
  header.e_phoff = sizeof(Elf64_Ehdr);
  header.e_ehsize = sizeof(Elf64_Ehdr);
  header.e_phentsize = sizeof(Elf64_Phdr);
  header.e_phnum = 1;
  Elf64_Phdr segment{};
  segment.p_type = PT_LOAD;
  segment.p_flags = PF_R | PF_X;
  segment.p_offset = kCodeOffset;
  segment.p_vaddr = kLoadAddress;
  segment.p_paddr = kLoadAddress;
  segment.p_filesz = code.size();
  segment.p_memsz = code.size();
  std::vector<std::uint8_t> file;
  Append(file, header);
  Append(file, segment);
  file.insert(file.end(), code.begin(), code.end());

  path_ = "/tmp/embervm-tiny-kernel-XXXXXX";
  const int fd = ::mkstemp(path_.data());
  if (fd < 0 || ::write(fd, file.data(), file.size()) != static_cast<ssize_t>(file.size())) {
    std::abort();
  }
  ::close(fd);
}

TinyKernel::~TinyKernel() { ::unlink(path_.c_str()); }

}  // namespace embervm::test
