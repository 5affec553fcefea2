// The kernel and initrd loaders: correct files land where they belong, broken
// ones give an error that names the file and the number.
#include <doctest/doctest.h>
#include <sys/stat.h>

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "arch/x86_64/loader.h"
#include "memory/guest_memory.h"
#include "test/arch_kernel_image.h"
#include "test/support/temp_file.h"

namespace embervm::test {
namespace {

constexpr std::uint64_t kMemory = 16U << 20U;

GuestMemory MakeMemory(std::uint64_t size = kMemory) {
  auto memory = GuestMemory::Create(size);
  REQUIRE(memory.has_value());
  return std::move(*memory);
}

struct Loaded {
  Result<LoadedKernel> kernel;
  std::string path;
};

Loaded Load(const GuestMemory& memory, const std::vector<std::byte>& bytes) {
  const TempFile file(0);
  file.Write(0, bytes);
  return {LoadKernel(memory, file.path()), file.path()};
}

TEST_CASE("an ELF vmlinux is loaded segment by segment") {
  const GuestMemory memory = MakeMemory();
  const Loaded loaded = Load(memory, ElfImage().Bytes());
  REQUIRE(loaded.kernel.has_value());
  CHECK(loaded.kernel->format == KernelFormat::kElf);
  CHECK(loaded.kernel->entry64 == ElfImage::kTextAddr);
  CHECK(loaded.kernel->pvh_entry == ElfImage::kPvhEntry);
  CHECK(loaded.kernel->end == ElfImage::kDataAddr + 0x3000);
  CHECK(!loaded.kernel->setup_header.has_value());
  const auto text = *memory.Slice(ElfImage::kTextAddr, 0x40);
  CHECK(std::ranges::all_of(text, [](std::byte byte) { return byte == std::byte{0x90}; }));
  CHECK(LoadLe<std::uint64_t>(*memory.Slice(ElfImage::kDataAddr, 8)) == 0x04030201);
}

TEST_CASE("a 4-byte PVH note, another owner's note, and none") {
  const GuestMemory memory = MakeMemory();
  ElfImage image;
  image.note.n_descsz = 4;
  CHECK(Load(memory, image.Bytes()).kernel->pvh_entry == ElfImage::kPvhEntry);
  image.note.n_type = 6;
  CHECK(!Load(memory, image.Bytes()).kernel->pvh_entry.has_value());
  image.segments.at(2).p_type = PT_NULL;
  CHECK(!Load(memory, image.Bytes()).kernel->pvh_entry.has_value());
}

struct Broken {
  const char* name;
  std::function<std::vector<std::byte>()> bytes;
  const char* code;
  // A part of the message.
  const char* says;
};

std::vector<std::byte> Elf(const std::function<void(ElfImage&)>& change) {
  ElfImage image;
  change(image);
  return image.Bytes();
}

std::vector<std::byte> Cut(std::vector<std::byte> bytes, std::size_t size) {
  bytes.resize(size);
  return bytes;
}

std::vector<std::byte> Bz(const std::function<void(BzImage&)>& change) {
  BzImage image;
  change(image);
  return image.Bytes();
}

void CheckAll(const std::vector<Broken>& cases) {
  const GuestMemory memory = MakeMemory();
  for (const Broken& test : cases) {
    CAPTURE(test.name);
    const Loaded loaded = Load(memory, test.bytes());
    REQUIRE(!loaded.kernel.has_value());
    const Error& error = loaded.kernel.error();
    CAPTURE(error.message());
    CHECK(error.code() == test.code);
    CHECK(error.message().find(loaded.path) != std::string::npos);
    CHECK(error.message().find(test.says) != std::string::npos);
  }
}

TEST_CASE("broken ELF files") {
  constexpr auto kInvalid = "ERR_KERNEL_INVALID";
  constexpr auto kTooLarge = "ERR_KERNEL_TOO_LARGE";
  CheckAll({
      {"empty", [] { return std::vector<std::byte>(); }, kInvalid, "0 bytes"},
      {"text", [] { return std::vector<std::byte>(5000, std::byte{'x'}); }, kInvalid, "neither"},
      {"magic only", [] { return Cut(ElfImage().Bytes(), 4); }, kInvalid, "truncated"},
      {"half a header", [] { return Cut(ElfImage().Bytes(), 63); }, kInvalid, "truncated"},
      {"no program headers", [] { return Cut(ElfImage().Bytes(), 64); }, kInvalid, "0x40"},
      {"half a segment", [] { return Cut(ElfImage().Bytes(), 0x120); }, kInvalid, "0x120"},
      {"32-bit", [] { return Elf([](auto& i) { i.header.e_ident[EI_CLASS] = 1; }); }, kInvalid,
       "64-bit"},
      {"big-endian", [] { return Elf([](auto& i) { i.header.e_ident[EI_DATA] = 2; }); }, kInvalid,
       "little-endian"},
      {"arm64", [] { return Elf([](auto& i) { i.header.e_machine = EM_AARCH64; }); }, kInvalid,
       "183"},
      {"object file", [] { return Elf([](auto& i) { i.header.e_type = ET_REL; }); }, kInvalid,
       "e_type 1"},
      {"odd headers", [] { return Elf([](auto& i) { i.header.e_phentsize = 55; }); }, kInvalid,
       "55"},
      {"no segments", [] { return Elf([](auto& i) { i.header.e_phnum = 0; }); }, kInvalid,
       "0 program headers"},
      {"too many", [] { return Elf([](auto& i) { i.header.e_phnum = 0xffff; }); }, kInvalid,
       "65535"},
      {"headers wrap", [] { return Elf([](auto& i) { i.header.e_phoff = ~0ULL - 8; }); }, kInvalid,
       "0xfffffffffffffff7"},
      {"file larger than memory", [] { return Elf([](auto& i) { i.segments[1].p_memsz = 3; }); },
       kInvalid, "0x4"},
      {"in the file alone",
       [] {
         return Elf([](auto& i) {
           i.segments[1].p_paddr = i.header.e_entry = kMemory;
           i.segments[1].p_memsz = 0;
         });
       },
       kInvalid, "0x4"},
      {"offset wraps", [] { return Elf([](auto& i) { i.segments[0].p_offset = ~0ULL; }); },
       kInvalid, "0xffffffffffffffff"},
      {"size wraps",
       [] { return Elf([](auto& i) { i.segments[0].p_filesz = i.segments[0].p_memsz = ~0ULL; }); },
       kInvalid, "0xffffffffffffffff"},
      {"below 1 MiB", [] { return Elf([](auto& i) { i.segments[0].p_paddr = 0x7000; }); }, kInvalid,
       "0x7000"},
      {"beyond RAM", [] { return Elf([](auto& i) { i.segments[1].p_paddr = kMemory; }); },
       kTooLarge, "0x1000000"},
      {"ends beyond RAM", [] { return Elf([](auto& i) { i.segments[1].p_memsz = kMemory; }); },
       kTooLarge, "more memory"},
      {"address wraps", [] { return Elf([](auto& i) { i.segments[1].p_paddr = ~0ULL - 4; }); },
       kTooLarge, "0xfffffffffffffffb"},
      {"in the device gap", [] { return Elf([](auto& i) { i.segments[1].p_paddr = 0xc0000000; }); },
       kTooLarge, "0xc0000000"},
      {"entry elsewhere", [] { return Elf([](auto& i) { i.header.e_entry = 0x300000; }); },
       kInvalid, "0x300000"},
      {"entry in .bss", [] { return Elf([](auto& i) { i.header.e_entry = 0x103000; }); }, kInvalid,
       "0x103000"},
      {"PVH entry elsewhere", [] { return Elf([](auto& i) { i.note_value = 0x12; }); }, kInvalid,
       "0x12"},
      {"huge notes", [] { return Elf([](auto& i) { i.segments[2].p_filesz = 1ULL << 40U; }); },
       kInvalid, "0x10000000000"},
      {"notes beyond the file",
       [] { return Elf([](auto& i) { i.segments[2].p_offset = 0x1000; }); }, kInvalid, "0x1000"},
  });
}

TEST_CASE("a note that says it is longer than its segment") {
  const GuestMemory memory = MakeMemory();
  ElfImage image;
  for (const std::uint32_t size : {0x7fffffffU, 0xffffffffU, 0xfffffffcU, 13U}) {
    image.note.n_descsz = size;
    image.note.n_namesz = 4;
    CHECK(!Load(memory, image.Bytes()).kernel->pvh_entry.has_value());
    image.note.n_namesz = size;
    CHECK(!Load(memory, image.Bytes()).kernel->pvh_entry.has_value());
  }
}

TEST_CASE("a bzImage is loaded at its preferred address") {
  const GuestMemory memory = MakeMemory();
  const Loaded loaded = Load(memory, BzImage().Bytes());
  REQUIRE(loaded.kernel.has_value());
  CHECK(loaded.kernel->format == KernelFormat::kBzImage);
  CHECK(loaded.kernel->entry64 == 0x200200);
  CHECK(loaded.kernel->end == 0x208000);
  REQUIRE(loaded.kernel->setup_header.has_value());
  CHECK(loaded.kernel->setup_header->size == 0x26c - 0x1f1);
  CHECK(LoadLe<std::uint32_t>(loaded.kernel->setup_header->bytes, 0x202 - 0x1f1) == 0x53726448);
  CHECK(*memory.Slice(0x2005ff, 1)->begin() == std::byte{0xcc});
  CHECK(*memory.Slice(0x200600, 1)->begin() == std::byte{0});
  BzImage fixed;
  fixed.relocatable = 0;
  CHECK(Load(memory, fixed.Bytes()).kernel->entry64 == 0x100200);
  // 0 sectors means 4, for old boot loaders.
  BzImage old;
  old.setup_sectors = 4;
  auto bytes = old.Bytes();
  bytes.at(0x1f1) = std::byte{0};
  CHECK(Load(memory, bytes).kernel->entry64 == 0x200200);
}

TEST_CASE("broken bzImages") {
  constexpr auto kInvalid = "ERR_KERNEL_INVALID";
  constexpr auto kTooLarge = "ERR_KERNEL_TOO_LARGE";
  CheckAll({
      {"too old", [] { return Bz([](auto& i) { i.version = 0x20b; }); }, kInvalid, "0x20b"},
      {"32-bit", [] { return Bz([](auto& i) { i.xloadflags = 2; }); }, kInvalid, "0x2"},
      {"header only", [] { return Cut(BzImage().Bytes(), 0x210); }, kInvalid, "truncated"},
      {"no code", [] { return Bz([](auto& i) { i.code_size = 0; }); }, kInvalid, "truncated"},
      {"less than the entry", [] { return Bz([](auto& i) { i.code_size = 0x200; }); }, kInvalid,
       "truncated"},
      {"sectors beyond the file",
       [] {
         auto bytes = BzImage().Bytes();
         bytes.at(0x1f1) = std::byte{0xff};
         return bytes;
       },
       kInvalid, "0x20000"},
      {"needs too much", [] { return Bz([](auto& i) { i.init_size = 0xffffffff; }); }, kTooLarge,
       "0xffffffff"},
      {"beyond RAM", [] { return Bz([](auto& i) { i.preferred_address = kMemory; }); }, kTooLarge,
       "0x1000000"},
      {"address wraps", [] { return Bz([](auto& i) { i.preferred_address = ~0ULL; }); }, kTooLarge,
       "0xffffffffffffffff"},
      {"below 1 MiB", [] { return Bz([](auto& i) { i.preferred_address = 0x1000; }); }, kInvalid,
       "0x1000"},
  });
}

TEST_CASE("paths that are not kernels") {
  const GuestMemory memory = MakeMemory();
  const TempFile file(0);
  const auto code = [&](const std::string& path) {
    const auto kernel = LoadKernel(memory, path);
    REQUIRE(!kernel.has_value());
    CHECK(kernel.error().message().find(path) != std::string::npos);
    return kernel.error().code();
  };
  CHECK(code(file.directory() + "/absent") == "ERR_KERNEL_NOT_FOUND");
  CHECK(code(file.path() + "/below-a-file") == "ERR_KERNEL_NOT_FOUND");
  CHECK(code(file.directory()) == "ERR_KERNEL_INVALID");
  const std::string pipe = file.directory() + "/pipe";
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  CHECK(code(pipe) == "ERR_KERNEL_INVALID");
  CHECK(code("/dev/zero") == "ERR_KERNEL_INVALID");
}

TEST_CASE("the initial RAM disk goes to the top of low memory") {
  const GuestMemory memory = MakeMemory();
  const TempFile file(5000);
  file.Write(0, std::vector<std::byte>(5000, std::byte{0x5a}));
  const auto initrd = LoadInitrd(memory, file.path(), 0x200000);
  REQUIRE(initrd.has_value());
  CHECK(initrd->size == 5000);
  CHECK(initrd->start == kMemory - 8192);
  CHECK(*memory.Slice(initrd->start + 4999, 1)->begin() == std::byte{0x5a});

  CHECK(LoadInitrd(memory, file.path(), kMemory - 8192).has_value());
  const auto code = [&](GuestAddr end) {
    return LoadInitrd(memory, file.path(), end).error().code();
  };
  CHECK(code(kMemory - 8191) == "ERR_KERNEL_TOO_LARGE");
  CHECK(code(kMemory) == "ERR_KERNEL_TOO_LARGE");
  CHECK(code(~std::uint64_t{0}) == "ERR_KERNEL_TOO_LARGE");
  const TempFile huge(kMemory + 1);
  CHECK(LoadInitrd(memory, huge.path(), 0x200000).error().code() == "ERR_KERNEL_TOO_LARGE");
  const TempFile empty(0);
  CHECK(LoadInitrd(memory, empty.path(), 0x200000).error().code() == "ERR_KERNEL_INVALID");
  CHECK(LoadInitrd(memory, "/absent", 0x200000).error().code() == "ERR_KERNEL_NOT_FOUND");
}

TEST_CASE("a machine with more memory than the gap leaves keeps the initrd low") {
  const GuestMemory memory = MakeMemory(std::uint64_t{5} << 30U);
  const TempFile file(4096);
  const auto initrd = LoadInitrd(memory, file.path(), 0x200000);
  REQUIRE(initrd.has_value());
  CHECK(initrd->start == GuestMemory::kGapStart - 4096);
}

}  // namespace
}  // namespace embervm::test
