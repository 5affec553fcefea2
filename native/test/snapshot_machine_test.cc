// Machines that are saved and continued on real KVM, with guests of a few instructions.
#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "devices/mem/protocol.h"
#include "machine/host_report.h"
#include "machine/snapshot_store.h"
#include "test/kvm_micro_guest.h"
#include "test/support/machine_fixture.h"
#include "test/support/temp_directory.h"
#include "test/support/tiny_kernel.h"

namespace embervm::machine {
namespace {

using test::Await;
using test::Close;
using test::Config;
using test::CountEntries;
using test::CountThreads;
using test::Create;
using test::HaveKvm;
using test::Kill;
using test::kPatience;
using test::Pause;
using test::Recorder;
using test::Resume;
using test::Start;
using test::TempDirectory;
using test::TinyKernel;

// Prints the letters A to P over and over; which comes next is in memory, in a byte that is
// never zero once written: a page of zeros would be saved as a hole.
//   mov dx, 0x3f8; mov ebx, 0x200000
//   again: mov al, [rbx]; and al, 15; add al, 'A'; out dx, al
//   mov al, [rbx]; inc al; and al, 15; or al, 16; mov [rbx], al; jmp again
const std::initializer_list<std::uint8_t> kLetters = {
    0x66, 0xba, 0xf8, 0x03, 0xbb, 0x00, 0x00, 0x20, 0x00, 0x8a, 0x03, 0x24, 0x0f, 0x04,
    0x41, 0xee, 0x8a, 0x03, 0xfe, 0xc0, 0x24, 0x0f, 0x0c, 0x10, 0x88, 0x03, 0xeb, 0xed};
constexpr std::uint64_t kLetterCount = 16;

Result<SnapshotReport> Save(Machine& machine, const std::string& directory,
                            SnapshotKind kind = SnapshotKind::kFull) {
  const auto promise = std::make_shared<std::promise<Result<SnapshotReport>>>();
  auto future = promise->get_future();
  machine.Snapshot({.directory = directory, .kind = kind},
                   [promise](Result<SnapshotReport> result) { promise->set_value(result); });
  REQUIRE(future.wait_for(kPatience) == std::future_status::ready);
  return future.get();
}

Result<std::unique_ptr<Machine>> Restore(RestoreConfig config, Recorder& recorder) {
  std::unique_ptr<Machine> machine;
  const Result<> restored = Await([&](Machine::Callback done) {
    auto made = Machine::Restore(std::move(config), recorder, std::move(done));
    REQUIRE(made.has_value());
    machine = std::move(made).value();
  });
  if (!restored.has_value()) return std::unexpected(restored.error());
  return machine;
}

std::unique_ptr<Machine> MustRestore(const std::string& directory, Recorder& recorder) {
  auto machine = Restore(
      {.directory = directory, .drives = {}, .vsock_cid = {}, .console_bytes = {}}, recorder);
  if (!machine.has_value()) FAIL(machine.error().message());
  return std::move(machine).value();
}

std::string CodeOf(const Result<std::unique_ptr<Machine>>& result) {
  return result.has_value() ? "" : result.error().code();
}

void WaitForOutput(Machine& machine, std::uint64_t bytes) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (machine.Stats().console_bytes < bytes) {
    REQUIRE(std::chrono::steady_clock::now() < deadline);
    std::this_thread::yield();
  }
}

char FirstLetter(Machine& machine) {
  constexpr std::size_t kEverything = 4096;
  const auto tail = machine.ConsoleTail(kEverything);
  REQUIRE(!tail.empty());
  REQUIRE(tail.size() == machine.Stats().console_bytes);
  return static_cast<char>(tail.front());
}

std::size_t CountFiles(const std::string& directory) {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(directory)) ++count;
  return count;
}

TEST_CASE("a machine goes on from its snapshot where it was, as often as one likes") {
  if (!HaveKvm()) return;
  const std::size_t descriptors = CountEntries("/proc/self/fd");
  const std::size_t threads = CountThreads();
  {
    const TempDirectory directory;
    const TinyKernel kernel(kLetters);
    Recorder recorder;
    auto machine = Create(Config(kernel), recorder);
    CHECK(Save(*machine, directory.path()).error().code() == "ERR_MACHINE_STATE");
    REQUIRE(Start(*machine).has_value());
    WaitForOutput(*machine, 100);
    REQUIRE(Pause(*machine).has_value());
    const std::uint64_t printed = machine->Stats().console_bytes;
    const auto report = Save(*machine, directory.path());
    if (!report.has_value()) FAIL(report.error().message());
    CHECK(report->kind == SnapshotKind::kFull);
    CHECK(report->memory_bytes > 0);
    CHECK(report->memory_bytes < 1U << 20U);
    CHECK(machine->state() == MachineState::kPaused);
    CHECK(machine->Stats().console_bytes == printed);

    Recorder first_recorder;
    Recorder second_recorder;
    auto first = MustRestore(directory.path(), first_recorder);
    auto second = MustRestore(directory.path(), second_recorder);
    for (Machine* const clone : {first.get(), second.get()}) {
      CHECK(clone->state() == MachineState::kPaused);
      CHECK(clone->Stats().console_bytes == 0);
      REQUIRE(Resume(*clone).has_value());
      CHECK(clone->state() == MachineState::kRunning);
      WaitForOutput(*clone, 1);
      REQUIRE(Pause(*clone).has_value());
      CHECK(FirstLetter(*clone) == static_cast<char>('A' + printed % kLetterCount));
    }
    REQUIRE(Resume(*machine).has_value());
    WaitForOutput(*machine, printed + 1);
    // One that ends takes nothing from the others.
    REQUIRE(Kill(*first).has_value());
    CHECK(first_recorder.WaitForExit()->reason == ExitReason::kKilled);
    Close(first);
    const std::uint64_t before = second->Stats().console_bytes;
    REQUIRE(Resume(*second).has_value());
    WaitForOutput(*second, before + 1);
    Close(second);
    Close(machine);
  }
  CHECK(CountEntries("/proc/self/fd") == descriptors);
  CHECK(CountThreads() == threads);
}

TEST_CASE("a running machine goes on running while it is saved, several times") {
  if (!HaveKvm()) return;
  const TempDirectory directory;
  const TinyKernel kernel(kLetters);
  Recorder recorder;
  auto machine = Create(Config(kernel, 2), recorder);
  REQUIRE(Start(*machine).has_value());
  for (int round = 0; round < 3; ++round) {
    const std::uint64_t before = machine->Stats().console_bytes;
    WaitForOutput(*machine, before + 1);
    const auto report = Save(*machine, directory.path());
    if (!report.has_value()) FAIL(report.error().message());
    CHECK(report->pause_ns > 0);
    CHECK(machine->state() == MachineState::kRunning);
    // The one before is gone, and nothing else is there.
    CHECK(CountFiles(directory.path()) == 2);
  }
  WaitForOutput(*machine, machine->Stats().console_bytes + 1);
  Recorder clone_recorder;
  auto clone = MustRestore(directory.path(), clone_recorder);
  CHECK(Start(*clone).error().code() == "ERR_MACHINE_STATE");
  REQUIRE(Kill(*clone).has_value());
  Close(clone);
  Close(machine);
}

TEST_CASE("what a clone changed since its snapshot is saved alone, or with the rest") {
  if (!HaveKvm()) return;
  const TempDirectory base;
  const TempDirectory changed;
  const TempDirectory whole;
  const TinyKernel kernel(kLetters);
  {
    Recorder recorder;
    auto machine = Create(Config(kernel), recorder);
    REQUIRE(Start(*machine).has_value());
    WaitForOutput(*machine, 1);
    REQUIRE(Pause(*machine).has_value());
    // A machine that was booted has nothing to build on.
    const auto report = Save(*machine, base.path(), SnapshotKind::kDiff);
    REQUIRE(report.has_value());
    CHECK(report->kind == SnapshotKind::kFull);
    Close(machine);
  }
  std::uint64_t printed = 0;
  char first = 0;
  {
    Recorder recorder;
    auto clone = MustRestore(base.path(), recorder);
    REQUIRE(Resume(*clone).has_value());
    WaitForOutput(*clone, 40);
    REQUIRE(Pause(*clone).has_value());
    first = FirstLetter(*clone);
    printed = clone->Stats().console_bytes;
    const auto diff = Save(*clone, changed.path(), SnapshotKind::kDiff);
    if (!diff.has_value()) FAIL(diff.error().message());
    CHECK(diff->kind == SnapshotKind::kDiff);
    // The page with the letter, and perhaps page tables with new accessed and dirty bits; the
    // code is as it was.
    CHECK(diff->memory_bytes >= GuestMemory::kPageSize);
    CHECK(diff->memory_bytes <= 4 * GuestMemory::kPageSize);
    const auto full = Save(*clone, whole.path());
    REQUIRE(full.has_value());
    CHECK(full->memory_bytes > diff->memory_bytes);
    Close(clone);
  }
  // Each stands for itself.
  std::filesystem::remove_all(base.path());
  const auto expected =
      static_cast<char>('A' + (static_cast<std::uint64_t>(first - 'A') + printed) % kLetterCount);
  for (const TempDirectory* const directory : {&changed, &whole}) {
    Recorder recorder;
    auto clone = MustRestore(directory->path(), recorder);
    REQUIRE(Resume(*clone).has_value());
    WaitForOutput(*clone, 1);
    REQUIRE(Pause(*clone).has_value());
    CHECK(FirstLetter(*clone) == expected);
    // A diff on top of it, over the snapshot that it came from.
    const auto again = Save(*clone, directory->path(), SnapshotKind::kDiff);
    if (!again.has_value()) FAIL(again.error().message());
    CHECK(again->kind == SnapshotKind::kDiff);
    Close(clone);
    Recorder last_recorder;
    auto last = MustRestore(directory->path(), last_recorder);
    Close(last);
  }
}

TEST_CASE("a clone gets other files for its drives, of the same size") {
  if (!HaveKvm()) return;
  const TempDirectory directory;
  const TinyKernel kernel(kLetters);
  const std::string disk = directory.path() + "-disk";
  const std::string other = directory.path() + "-other";
  const std::string large = directory.path() + "-large";
  for (const std::string& path : {disk, other}) {
    std::ofstream(path, std::ios::binary) << std::string(4096, 'x');
  }
  std::ofstream(large, std::ios::binary) << std::string(8192, 'x');
  Recorder recorder;
  MachineConfig config = Config(kernel);
  config.drives.push_back({.id = "data", .path = disk, .read_only = false});
  auto machine = Create(config, recorder);
  REQUIRE(Start(*machine).has_value());
  REQUIRE(Save(*machine, directory.path()).has_value());

  const auto restore = [&](std::vector<RestoreConfig::Drive> drives, bool only = false) {
    Recorder clone_recorder;
    auto clone = Restore({.directory = directory.path(),
                          .drives = std::move(drives),
                          .only_these_drives = only,
                          .vsock_cid = 7,
                          .console_bytes = 8192},
                         clone_recorder);
    std::string code = CodeOf(clone);
    if (clone.has_value()) Close(*clone);
    return code;
  };
  // The machine itself writes to it still.
  CHECK(restore({}) == "ERR_DRIVE_BUSY");
  CHECK(restore({{"data", other}}).empty());
  CHECK(restore({{"data", large}}) == "ERR_SNAPSHOT_MISMATCH");
  CHECK(restore({{"data", other + "-none"}}) == "ERR_DRIVE_NOT_FOUND");
  CHECK(restore({{"unknown", other}}) == "ERR_SNAPSHOT_MISMATCH");
  CHECK(restore({{"data", other, false}}, true).empty());
  CHECK(restore({{"data", other, true}}) == "ERR_SNAPSHOT_MISMATCH");
  CHECK(restore({}, true) == "ERR_SNAPSHOT_MISMATCH");
  Close(machine);
  CHECK(restore({}).empty());
  for (const std::string& path : {disk, other, large}) std::filesystem::remove(path);
}

TEST_CASE("a broken snapshot is refused with its reason and leaves nothing") {
  if (!HaveKvm()) return;
  const TempDirectory directory;
  const TinyKernel kernel(kLetters);
  {
    Recorder recorder;
    auto machine = Create(Config(kernel), recorder);
    REQUIRE(Start(*machine).has_value());
    REQUIRE(Save(*machine, directory.path()).has_value());
    Close(machine);
  }
  const std::size_t descriptors = CountEntries("/proc/self/fd");
  const auto restore = [&](const std::string& path) {
    Recorder recorder;
    auto machine =
        Restore({.directory = path, .drives = {}, .vsock_cid = {}, .console_bytes = {}}, recorder);
    std::string code = CodeOf(machine);
    if (machine.has_value()) Close(*machine);
    return code;
  };
  REQUIRE(restore(directory.path()).empty());
  CHECK(restore(directory.path() + "/none") == "ERR_SNAPSHOT_NOT_FOUND");
  CHECK(restore("/") == "ERR_SNAPSHOT_NOT_FOUND");
  CHECK(restore(kernel.path()) == "ERR_SNAPSHOT_NOT_FOUND");

  const std::string state = directory.path() + "/state";
  std::string memory;
  for (const auto& entry : std::filesystem::directory_iterator(directory.path())) {
    if (entry.path().string() != state) memory = entry.path().string();
  }
  // Shorter than the guest's memory: an error now, not a SIGBUS later.
  const auto size = std::filesystem::file_size(memory);
  std::filesystem::resize_file(memory, size - 1);
  CHECK(restore(directory.path()) == "ERR_SNAPSHOT_INVALID");
  std::filesystem::resize_file(memory, size);
  REQUIRE(restore(directory.path()).empty());
  std::filesystem::rename(memory, memory + "-away");
  CHECK(restore(directory.path()) == "ERR_SNAPSHOT_INVALID");
  std::filesystem::rename(memory + "-away", memory);

  // Each part of the state, one byte at a time: nothing slips through.
  const std::string good = [&state] {
    std::ifstream file(state, std::ios::binary);
    return std::string((std::istreambuf_iterator<char>(file)), {});
  }();
  constexpr std::size_t kStep = 997;
  for (std::size_t at = 0; at < good.size(); at += at < 40 ? 1 : kStep) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 0x10);
    std::ofstream(state, std::ios::binary) << bad;
    const std::string code = restore(directory.path());
    const bool version = at >= 8 && at < 12;
    CHECK(code == (version ? "ERR_SNAPSHOT_VERSION" : "ERR_SNAPSHOT_INVALID"));
    std::ofstream(state, std::ios::binary) << good.substr(0, at);
    CHECK(restore(directory.path()) == "ERR_SNAPSHOT_INVALID");
  }
  std::ofstream(state, std::ios::binary) << good << "x";
  CHECK(restore(directory.path()) == "ERR_SNAPSHOT_INVALID");
  std::ofstream(state, std::ios::binary) << good;
  CHECK(restore(directory.path()).empty());
  CHECK(CountEntries("/proc/self/fd") == descriptors);
}

TEST_CASE("a machine with more memory than the host has is not restored") {
  if (!HaveKvm()) return;
  const TempDirectory directory;
  const TinyKernel kernel(kLetters);
  const auto restore = [&](std::uint64_t memory_mib) {
    const std::string path = directory.path() + "/" + std::to_string(memory_mib);
    {
      MachineConfig config = Config(kernel);
      config.memory_mib = memory_mib;
      Recorder recorder;
      auto machine = Create(std::move(config), recorder);
      REQUIRE(Start(*machine).has_value());
      REQUIRE(Save(*machine, path).has_value());
      Close(machine);
    }
    Recorder recorder;
    auto machine =
        Restore({.directory = path, .drives = {}, .vsock_cid = {}, .console_bytes = {}}, recorder);
    std::string code = CodeOf(machine);
    if (machine.has_value()) Close(*machine);
    return code;
  };
  CHECK(restore(HostMemoryMib() + 1) == "ERR_SNAPSHOT_HOST");
  CHECK(restore(64).empty());
}

TEST_CASE("memory that can grow is as it was, and what a forged snapshot says of it is checked") {
  if (!HaveKvm()) return;
  constexpr std::uint64_t kMiB = std::uint64_t{1} << 20U;
  constexpr std::uint64_t kBlock = devices::mem::kBlockBytes;
  const TempDirectory directory;
  const TinyKernel kernel(kLetters);
  {
    Recorder recorder;
    MachineConfig config = Config(kernel);
    config.pluggable = {.max_bytes = 132 * kMiB, .requested_bytes = 0, .plugged = {}};
    auto machine = Create(std::move(config), recorder);
    REQUIRE(Start(*machine).has_value());
    const auto resize = [&](std::uint64_t bytes) {
      const Result<> result = Await([&](Machine::Callback done) {
        machine->ResizeMemory(bytes, kPatience,
                              [done = std::move(done)](Result<std::uint64_t> got) mutable {
                                if (got.has_value()) return done({});
                                done(std::unexpected(std::move(got).error()));
                              });
      });
      return result.has_value() ? "" : result.error().code();
    };
    CHECK(resize(36 * kMiB) == "ERR_GUEST_NO_DRIVER");
    for (const std::uint64_t bytes :
         {std::uint64_t{0}, 28 * kMiB, 34 * kMiB, 168 * kMiB, 32 * kMiB + 1, ~std::uint64_t{0}}) {
      CHECK(resize(bytes) == "ERR_INVALID_CONFIG");
    }
    REQUIRE(Save(*machine, directory.path()).has_value());
    Close(machine);
  }
  const Snapshot good = OpenSnapshot(directory.path()).value().snapshot;
  CHECK(good.config.pluggable->max_bytes == 132 * kMiB);
  const auto restore = [&](const PluggableMemoryConfig& pluggable) {
    Snapshot forged = good;
    forged.config.pluggable = pluggable;
    const std::vector<std::byte> state = EncodeSnapshot(forged);
    std::ofstream(directory.path() + "/state", std::ios::binary)
        .write(reinterpret_cast<const char*>(state.data()),
               static_cast<std::streamsize>(state.size()));
    Recorder recorder;
    auto machine =
        Restore({.directory = directory.path(), .drives = {}, .vsock_cid = {}, .console_bytes = {}},
                recorder);
    std::string code = CodeOf(machine);
    if (!machine.has_value()) return code;
    const MemoryStats memory = *(*machine)->Stats().memory;
    CHECK(memory.bytes == 32 * kMiB + 3 * kBlock);
    CHECK(memory.target_bytes == 32 * kMiB + pluggable.requested_bytes);
    Close(*machine);
    return code;
  };
  const GuestMemory::Extent first{.offset = 0, .length = kBlock};
  const GuestMemory::Extent last{.offset = 248 * kMiB, .length = 2 * kBlock};
  CHECK(restore({132 * kMiB, 8 * kMiB, {first, last}}).empty());
  for (const PluggableMemoryConfig& bad : std::vector<PluggableMemoryConfig>{
           {0, 0, {}},
           {132 * kMiB + 1, 0, {}},
           {~std::uint64_t{0}, 0, {}},
           {132 * kMiB, 136 * kMiB, {}},
           {132 * kMiB, 1, {}},
           {132 * kMiB, 0, {last, first}},
           {132 * kMiB, 0, {first, first}},
           {132 * kMiB, 0, {{.offset = 256 * kMiB, .length = kBlock}}},
           {132 * kMiB, 0, {{.offset = ~std::uint64_t{0} - kBlock + 1, .length = 2 * kBlock}}},
           {132 * kMiB, 0, {{.offset = 4096, .length = kBlock}}},
           // A larger region: the memory file is too short for it.
           {260 * kMiB, 0, {first}}}) {
    CAPTURE(bad.max_bytes);
    CHECK(restore(bad) == "ERR_SNAPSHOT_INVALID");
  }
  const std::uint64_t host = HostMemoryMib() * kMiB / kBlock * kBlock;
  CHECK(restore({host, 0, {}}) == "ERR_SNAPSHOT_HOST");
}

TEST_CASE("a snapshot that fails leaves the one before and the machine as they were") {
  if (!HaveKvm()) return;
  const TempDirectory directory;
  const TinyKernel kernel(kLetters);
  Recorder recorder;
  auto machine = Create(Config(kernel), recorder);
  REQUIRE(Start(*machine).has_value());
  REQUIRE(Save(*machine, directory.path()).has_value());
  CHECK(Save(*machine, directory.path() + "/no/such").error().code() == "ERR_SNAPSHOT_WRITE");
  CHECK(Save(*machine, kernel.path()).error().code() == "ERR_SNAPSHOT_WRITE");
  CHECK(machine->state() == MachineState::kRunning);
  {
    auto other = SnapshotWriter::Open(directory.path());
    REQUIRE(other.has_value());
    CHECK(Save(*machine, directory.path()).error().code() == "ERR_SNAPSHOT_BUSY");
  }
  // As a writer leaves it that was killed.
  std::ofstream(directory.path() + "/memory-0123456789abcdef") << "left over";
  std::ofstream(directory.path() + "/state.tmp") << "left over";
  std::ofstream(directory.path() + "/notes") << "not ours";
  Recorder clone_recorder;
  auto clone = MustRestore(directory.path(), clone_recorder);
  Close(clone);
  REQUIRE(Save(*machine, directory.path()).has_value());
  CHECK(CountFiles(directory.path()) == 3);

  // Two at once: one of them is refused.
  const auto first = std::make_shared<std::promise<Result<SnapshotReport>>>();
  machine->Snapshot({.directory = directory.path(), .kind = SnapshotKind::kFull},
                    [first](Result<SnapshotReport> result) { first->set_value(result); });
  const auto second = Save(*machine, directory.path() + "-second");
  CHECK(second.error().code() == "ERR_SNAPSHOT_BUSY");
  CHECK(first->get_future().get().has_value());
  WaitForOutput(*machine, machine->Stats().console_bytes + 1);
  Close(machine);
}

TEST_CASE("closing and killing during a snapshot answer it") {
  if (!HaveKvm()) return;
  const TinyKernel kernel(kLetters);
  for (int round = 0; round < 10; ++round) {
    const TempDirectory directory;
    Recorder recorder;
    auto machine = Create(Config(kernel), recorder);
    REQUIRE(Start(*machine).has_value());
    const auto saved = std::make_shared<std::promise<Result<SnapshotReport>>>();
    machine->Snapshot({.directory = directory.path(), .kind = SnapshotKind::kFull},
                      [saved](Result<SnapshotReport> result) { saved->set_value(result); });
    if (round % 2 == 0) {
      REQUIRE(Kill(*machine).has_value());
      Close(machine);
    } else {
      machine.reset();
    }
    auto answer = saved->get_future();
    REQUIRE(answer.wait_for(kPatience) == std::future_status::ready);
    // Whole or not there at all.
    const auto opened = OpenSnapshot(directory.path());
    CHECK(opened.has_value() == answer.get().has_value());
  }
}

}  // namespace
}  // namespace embervm::machine
