// Kernel files made in memory: a correct one to start from, and every field
// open to be broken.
#ifndef EMBERVM_TEST_ARCH_KERNEL_IMAGE_H_
#define EMBERVM_TEST_ARCH_KERNEL_IMAGE_H_

#include <elf.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "base/bytes.h"

namespace embervm::test {

// An ELF vmlinux: a code segment, a data segment with .bss, a note segment.
struct ElfImage {
  static constexpr std::uint64_t kTextAddr = 0x100000;
  static constexpr std::uint64_t kDataAddr = 0x102000;
  static constexpr std::uint64_t kPvhEntry = 0x100010;

  Elf64_Ehdr header{};
  std::vector<Elf64_Phdr> segments;
  std::vector<std::uint8_t> text = std::vector<std::uint8_t>(0x40, 0x90);
  std::vector<std::uint8_t> data = {1, 2, 3, 4};
  Elf64_Nhdr note{.n_namesz = 4, .n_descsz = 8, .n_type = 18};
  std::uint64_t note_value = kPvhEntry;

  ElfImage() {
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_ident[EI_VERSION] = EV_CURRENT;
    header.e_type = ET_EXEC;
    header.e_machine = EM_X86_64;
    header.e_version = EV_CURRENT;
    header.e_entry = kTextAddr;
    header.e_phoff = sizeof(header);
    header.e_ehsize = sizeof(header);
    header.e_phentsize = sizeof(Elf64_Phdr);
    header.e_phnum = 3;
    segments = {
        {.p_type = PT_LOAD,
         .p_flags = PF_R | PF_X,
         .p_offset = kTextOffset,
         .p_vaddr = 0xffffffff81000000,
         .p_paddr = kTextAddr,
         .p_filesz = 0x40,
         .p_memsz = 0x40,
         .p_align = 0x1000},
        {.p_type = PT_LOAD,
         .p_flags = PF_R | PF_W,
         .p_offset = kDataOffset,
         .p_vaddr = 0xffffffff81002000,
         .p_paddr = kDataAddr,
         .p_filesz = 4,
         .p_memsz = 0x3000,
         .p_align = 0x1000},
        {.p_type = PT_NOTE,
         .p_flags = PF_R,
         .p_offset = kNoteOffset,
         .p_vaddr = 0,
         .p_paddr = 0,
         .p_filesz = kNoteSize,
         .p_memsz = kNoteSize,
         .p_align = 4},
    };
  }

  [[nodiscard]] std::vector<std::byte> Bytes() const {
    std::vector<std::byte> file(kFileSize);
    const std::span bytes(file);
    StoreLe(bytes, 0, header);
    for (std::size_t i = 0; i < segments.size(); ++i) {
      StoreLe(bytes, sizeof(header) + i * sizeof(Elf64_Phdr), segments[i]);
    }
    std::memcpy(bytes.subspan(kTextOffset).data(), text.data(), text.size());
    std::memcpy(bytes.subspan(kDataOffset).data(), data.data(), data.size());
    StoreLe(bytes, kNoteOffset, note);
    std::memcpy(bytes.subspan(kNoteOffset + sizeof(note)).data(), "Xen", 4);
    StoreLe(bytes, kNoteOffset + sizeof(note) + 4, note_value);
    return file;
  }

  static constexpr std::size_t kTextOffset = 0x100;
  static constexpr std::size_t kDataOffset = 0x140;
  static constexpr std::size_t kNoteOffset = 0x148;
  static constexpr std::size_t kNoteSize = sizeof(Elf64_Nhdr) + 4 + 8;
  static constexpr std::size_t kFileSize = 0x160;
};

// A bzImage whose code is `code_size` bytes of 0xcc.
struct BzImage {
  std::uint8_t setup_sectors = 1;
  std::uint16_t version = 0x20f;
  std::uint16_t xloadflags = 1;
  std::uint8_t relocatable = 1;
  std::uint64_t preferred_address = 0x200000;
  std::uint32_t init_size = 0x8000;
  std::size_t code_size = 0x600;

  [[nodiscard]] std::vector<std::byte> Bytes() const {
    const std::size_t code = (setup_sectors + std::size_t{1}) * 512;
    std::vector<std::byte> file(code + code_size, std::byte{0xcc});
    std::memset(file.data(), 0, code);
    const std::span bytes(file);
    StoreLe(bytes, 0x1f1, setup_sectors);
    StoreLe(bytes, 0x1fe, std::uint16_t{0xaa55});
    StoreLe(bytes, 0x200, std::uint16_t{0x6aeb});  // jmp over the header
    std::memcpy(bytes.subspan(0x202).data(), "HdrS", 4);
    StoreLe(bytes, 0x206, version);
    StoreLe(bytes, 0x234, relocatable);
    StoreLe(bytes, 0x236, xloadflags);
    StoreLe(bytes, 0x258, preferred_address);
    StoreLe(bytes, 0x260, init_size);
    return file;
  }
};

}  // namespace embervm::test

#endif  // EMBERVM_TEST_ARCH_KERNEL_IMAGE_H_
