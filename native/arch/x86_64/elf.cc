// ELF vmlinux: PT_LOAD segments go to their physical addresses.
#include <elf.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "arch/x86_64/layout.h"
#include "arch/x86_64/loader_formats.h"
#include "base/bytes.h"
#include "base/checked.h"

namespace embervm {

namespace {

// Linux has four or five; the header's own limit is 65535.
constexpr std::size_t kMaxProgramHeaders = 128;
// Notes of a kernel are some hundred bytes.
constexpr std::uint64_t kMaxNoteSize = std::uint64_t{64} * 1024;
// include/xen/interface/elfnote.h: the 32-bit physical entry of PVH.
constexpr std::uint32_t kXenPhys32Entry = 18;

Result<Elf64_Ehdr> ReadHeader(const KernelFile& file) {
  Elf64_Ehdr header{};
  EMBERVM_TRY(file.ReadAt(0, std::as_writable_bytes(std::span<Elf64_Ehdr, 1>(&header, 1))));
  if (header.e_ident[EI_CLASS] != ELFCLASS64) {
    return std::unexpected(file.Invalid("is not a 64-bit ELF (class " +
                                        std::to_string(header.e_ident[EI_CLASS]) + ")"));
  }
  if (header.e_ident[EI_DATA] != ELFDATA2LSB) {
    return std::unexpected(file.Invalid("is not little-endian (data encoding " +
                                        std::to_string(header.e_ident[EI_DATA]) + ")"));
  }
  if (header.e_machine != EM_X86_64) {
    return std::unexpected(file.Invalid("is for another machine (e_machine " +
                                        std::to_string(header.e_machine) + ", x86-64 is 62)"));
  }
  if (header.e_type != ET_EXEC && header.e_type != ET_DYN) {
    return std::unexpected(
        file.Invalid("is not an executable (e_type " + std::to_string(header.e_type) + ")"));
  }
  if (header.e_phentsize != sizeof(Elf64_Phdr)) {
    return std::unexpected(file.Invalid(
        "has program headers of " + std::to_string(header.e_phentsize) + " bytes instead of 56"));
  }
  if (header.e_phnum == 0 || header.e_phnum > kMaxProgramHeaders) {
    return std::unexpected(file.Invalid("has " + std::to_string(header.e_phnum) +
                                        " program headers, not 1 to " +
                                        std::to_string(kMaxProgramHeaders)));
  }
  return header;
}

Result<std::vector<Elf64_Phdr>> ReadProgramHeaders(const KernelFile& file,
                                                   const Elf64_Ehdr& header) {
  std::vector<Elf64_Phdr> segments(header.e_phnum);
  const auto bytes = std::as_writable_bytes(std::span(segments));
  if (!RangeFits(header.e_phoff, std::uint64_t{bytes.size()}, file.size())) {
    return std::unexpected(file.Invalid("is truncated: program headers at " + Hex(header.e_phoff) +
                                        " of a file of " + Hex(file.size()) + " bytes"));
  }
  EMBERVM_TRY(file.ReadAt(header.e_phoff, bytes));
  return segments;
}

// Returns the address behind the segment.
Result<GuestAddr> LoadSegment(const GuestMemory& memory, const KernelFile& file,
                              const Elf64_Phdr& segment) {
  if (segment.p_filesz > segment.p_memsz) {
    return std::unexpected(file.Invalid("has a segment with more bytes in the file (" +
                                        Hex(segment.p_filesz) + ") than in memory (" +
                                        Hex(segment.p_memsz) + ")"));
  }
  // An empty segment may name any address: it occupies none.
  if (segment.p_memsz == 0) return GuestAddr{0};
  if (!RangeFits(segment.p_offset, segment.p_filesz, file.size())) {
    return std::unexpected(file.Invalid("is truncated: a segment of " + Hex(segment.p_filesz) +
                                        " bytes at " + Hex(segment.p_offset) + " of a file of " +
                                        Hex(file.size()) + " bytes"));
  }
  EMBERVM_TRY_ASSIGN(const std::span<std::byte> target,
                     KernelRange(memory, file, segment.p_paddr, segment.p_memsz));
  EMBERVM_TRY(file.ReadAt(segment.p_offset, target.first(segment.p_filesz)));
  // What follows in memory is zero already: fresh guest memory is, and writing
  // it would only make it resident.
  return segment.p_paddr + segment.p_memsz;
}

std::uint64_t AlignUp(std::uint64_t value, std::uint64_t alignment) {
  return (value + alignment - 1) & ~(alignment - 1);
}

// The entry in one PT_NOTE segment, by gABI's note format.
Result<std::optional<GuestAddr>> FindPvhEntry(const KernelFile& file, const Elf64_Phdr& segment) {
  constexpr std::string_view kXen("Xen\0", 4);
  constexpr std::uint64_t kNoteAlignment = 4;
  if (segment.p_filesz > kMaxNoteSize ||
      !RangeFits(segment.p_offset, segment.p_filesz, file.size())) {
    return std::unexpected(file.Invalid("has notes of " + Hex(segment.p_filesz) + " bytes at " +
                                        Hex(segment.p_offset)));
  }
  std::vector<std::byte> notes(segment.p_filesz);
  EMBERVM_TRY(file.ReadAt(segment.p_offset, notes));
  std::uint64_t offset = 0;
  while (RangeFits(offset, std::uint64_t{sizeof(Elf64_Nhdr)}, std::uint64_t{notes.size()})) {
    const auto note = LoadLe<Elf64_Nhdr>(notes, offset);
    const std::uint64_t name = offset + sizeof(note);
    const std::uint64_t value = name + AlignUp(note.n_namesz, kNoteAlignment);
    offset = value + AlignUp(note.n_descsz, kNoteAlignment);
    if (offset > notes.size()) break;
    if (note.n_type != kXenPhys32Entry || note.n_namesz != kXen.size() ||
        std::memcmp(std::span(notes).subspan(name).data(), kXen.data(), kXen.size()) != 0) {
      continue;
    }
    if (note.n_descsz == sizeof(std::uint32_t)) {
      return std::optional<GuestAddr>(LoadLe<std::uint32_t>(notes, value));
    }
    if (note.n_descsz == sizeof(std::uint64_t)) {
      return std::optional<GuestAddr>(LoadLe<std::uint64_t>(notes, value));
    }
  }
  return std::optional<GuestAddr>();
}

bool HasSegmentAt(std::span<const Elf64_Phdr> segments, GuestAddr addr) {
  return std::ranges::any_of(segments, [&](const Elf64_Phdr& segment) {
    return segment.p_type == PT_LOAD && addr >= segment.p_paddr &&
           addr - segment.p_paddr < segment.p_filesz;
  });
}

}  // namespace

bool IsElf(std::span<const std::byte> head) {
  return head.size() >= SELFMAG && std::memcmp(head.data(), ELFMAG, SELFMAG) == 0;
}

Result<LoadedKernel> LoadElf(const GuestMemory& memory, const KernelFile& file) {
  EMBERVM_TRY_ASSIGN(const Elf64_Ehdr header, ReadHeader(file));
  EMBERVM_TRY_ASSIGN(const std::vector<Elf64_Phdr> segments, ReadProgramHeaders(file, header));
  LoadedKernel kernel{.format = KernelFormat::kElf,
                      .entry64 = header.e_entry,
                      .pvh_entry = std::nullopt,
                      .end = 0,
                      .setup_header = std::nullopt};
  for (const Elf64_Phdr& segment : segments) {
    if (segment.p_type == PT_LOAD) {
      EMBERVM_TRY_ASSIGN(const GuestAddr end, LoadSegment(memory, file, segment));
      kernel.end = std::max(kernel.end, end);
    } else if (segment.p_type == PT_NOTE && !kernel.pvh_entry) {
      EMBERVM_TRY_ASSIGN(kernel.pvh_entry, FindPvhEntry(file, segment));
    }
  }
  // A vmlinux has its physical entry address here.
  if (!HasSegmentAt(segments, kernel.entry64)) {
    return std::unexpected(
        file.Invalid("has its entry at " + Hex(kernel.entry64) + ", outside every loaded segment"));
  }
  if (kernel.pvh_entry && !HasSegmentAt(segments, *kernel.pvh_entry)) {
    return std::unexpected(file.Invalid("has its PVH entry at " + Hex(*kernel.pvh_entry) +
                                        ", outside every loaded segment"));
  }
  return kernel;
}

}  // namespace embervm
