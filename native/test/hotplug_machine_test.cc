// Drives that come and go in real machines, whose guests look at a slot's registers.
#include <doctest/doctest.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <future>
#include <memory>
#include <string>
#include <thread>

#include "test/kvm_micro_guest.h"
#include "test/support/machine_fixture.h"
#include "test/support/temp_directory.h"
#include "test/support/temp_file.h"
#include "test/support/tiny_kernel.h"

namespace embervm::machine {
namespace {

using test::Await;
using test::Close;
using test::Config;
using test::CountEntries;
using test::Create;
using test::HaveKvm;
using test::Kill;
using test::kPatience;
using test::Pause;
using test::Recorder;
using test::Resume;
using test::Start;
using test::TempDirectory;
using test::TempFile;
using test::TinyKernel;

// Vsock, console and rng come first: the fourth slot, 0xc0004000, is the first empty one.
constexpr std::uint64_t kSlotAddress = 0xc000'4000;
constexpr std::uint64_t kDiskBytes = 64U << 10U;

// Prints the device id of the slot as a digit, over and over.
//   mov dx, 0x3f8; mov ebx, 0xc0004008
//   again: mov eax, [rbx]; add al, '0'; out dx, al; jmp again
const std::initializer_list<std::uint8_t> kPrintId = {
    0x66, 0xba, 0xf8, 0x03, 0xbb, 0x08, 0x40, 0x00, 0xc0, 0x8b, 0x03, 0x04, 0x30, 0xee, 0xeb, 0xf9};

// Takes what comes into the slot as far as a driver, prints D, lets it go, prints R.
//   mov dx, 0x3f8; mov ebx, 0xc0004008
//   again: cmp dword [rbx], 2; jne again
//   mov dword [rbx + 0x68], 1; mov dword [rbx + 0x68], 3; mov al, 'D'; out dx, al
//   mov dword [rbx + 0x68], 0; mov al, 'R'; out dx, al; jmp again
const std::initializer_list<std::uint8_t> kTakeAndRelease = {
    0x66, 0xba, 0xf8, 0x03, 0xbb, 0x08, 0x40, 0x00, 0xc0, 0x83, 0x3b, 0x02, 0x75, 0xfb, 0xc7,
    0x43, 0x68, 0x01, 0x00, 0x00, 0x00, 0xc7, 0x43, 0x68, 0x03, 0x00, 0x00, 0x00, 0xb0, 0x44,
    0xee, 0xc7, 0x43, 0x68, 0x00, 0x00, 0x00, 0x00, 0xb0, 0x52, 0xee, 0xeb, 0xde};

// Takes it and stays.
//   … mov al, 'D'; out dx, al; jmp $
const std::initializer_list<std::uint8_t> kTakeAndHold = {
    0x66, 0xba, 0xf8, 0x03, 0xbb, 0x08, 0x40, 0x00, 0xc0, 0x83, 0x3b,
    0x02, 0x75, 0xfb, 0xc7, 0x43, 0x68, 0x01, 0x00, 0x00, 0x00, 0xc7,
    0x43, 0x68, 0x03, 0x00, 0x00, 0x00, 0xb0, 0x44, 0xee, 0xeb, 0xfe};

MachineConfig WithSlots(const TinyKernel& kernel, std::uint32_t slots) {
  MachineConfig config = Config(kernel);
  config.hotplug_slots = slots;
  return config;
}

Result<PluggedDevice> Attach(Machine& machine, DriveConfig drive) {
  const auto promise = std::make_shared<std::promise<Result<PluggedDevice>>>();
  auto future = promise->get_future();
  machine.AttachDrive(std::move(drive), [promise](Result<PluggedDevice> result) {
    promise->set_value(std::move(result));
  });
  REQUIRE(future.wait_for(kPatience) == std::future_status::ready);
  return future.get();
}

Result<PluggedDevice> Attach(Machine& machine, const char* id, const std::string& path) {
  return Attach(machine, {.id = id, .path = path, .read_only = false});
}

Result<PluggedDevice> AttachDirectory(Machine& machine, const char* tag, const std::string& path) {
  devices::FsOptions options;
  options.tag = tag;
  options.path = path;
  const auto promise = std::make_shared<std::promise<Result<PluggedDevice>>>();
  auto future = promise->get_future();
  machine.AttachSharedDir(std::move(options), [promise](Result<PluggedDevice> result) {
    promise->set_value(std::move(result));
  });
  REQUIRE(future.wait_for(kPatience) == std::future_status::ready);
  return future.get();
}

Result<> Detach(Machine& machine, const char* id) {
  return Await([&](Machine::Callback done) { machine.Detach(id, std::move(done)); });
}

template <class Value>
std::string CodeOf(const Result<Value>& result) {
  return result.has_value() ? "" : result.error().code();
}

bool Printed(Machine& machine, char wanted) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (std::chrono::steady_clock::now() < deadline) {
    const auto tail = machine.ConsoleTail(1);
    if (!tail.empty() && static_cast<char>(tail[0]) == wanted) return true;
    std::this_thread::yield();
  }
  return false;
}

Result<> Save(Machine& machine, const std::string& directory) {
  return Await([&](Machine::Callback done) {
    machine.Snapshot({.directory = directory, .kind = SnapshotKind::kFull},
                     [done = std::move(done)](const Result<SnapshotReport>& report) mutable {
                       done(report.has_value() ? Result<>() : std::unexpected(report.error()));
                     });
  });
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

TEST_CASE("a guest sees a drive come into its slot and leave it") {
  if (!HaveKvm()) return;
  const TinyKernel kernel(kPrintId);
  const TempFile disk(kDiskBytes);
  const std::size_t descriptors = CountEntries("/proc/self/fd");
  Recorder recorder;
  auto machine = Create(WithSlots(kernel, 2), recorder);
  REQUIRE(Start(*machine).has_value());
  CHECK(Printed(*machine, '0'));
  for (int round = 0; round < 3; ++round) {
    const auto attached = Attach(*machine, "data", disk.path());
    if (!attached.has_value()) FAIL(attached.error().message());
    CHECK(attached->index == 3);
    CHECK(attached->address == kSlotAddress);
    CHECK(attached->irq == 8);
    CHECK(Printed(*machine, '2'));
    CHECK(machine->Stats().drives.size() == 1);
    REQUIRE(Detach(*machine, "data").has_value());
    CHECK(Printed(*machine, '0'));
    CHECK(machine->Stats().drives.empty());
  }
  // While it stands still, too.
  REQUIRE(Pause(*machine).has_value());
  REQUIRE(Attach(*machine, "data", disk.path()).has_value());
  REQUIRE(Resume(*machine).has_value());
  CHECK(Printed(*machine, '2'));
  Close(machine);
  CHECK(CountEntries("/proc/self/fd") == descriptors);
}

TEST_CASE("a guest sees a shared directory come into its slot and leave it") {
  if (!HaveKvm()) return;
  const TinyKernel kernel(kPrintId);
  const TempFile disk(kDiskBytes);
  const TempDirectory directory;
  const TempDirectory saved;
  const std::size_t descriptors = CountEntries("/proc/self/fd");
  Recorder recorder;
  auto machine = Create(WithSlots(kernel, 2), recorder);
  REQUIRE(Start(*machine).has_value());
  CHECK(CodeOf(AttachDirectory(*machine, "work", directory.path() + "/none")) ==
        "ERR_SHARED_DIR_NOT_FOUND");
  CHECK(CodeOf(AttachDirectory(*machine, "work", disk.path())) == "ERR_SHARED_DIR_INVALID");
  for (int round = 0; round < 3; ++round) {
    const auto attached = AttachDirectory(*machine, "work", directory.path());
    if (!attached.has_value()) FAIL(attached.error().message());
    CHECK(attached->address == kSlotAddress);
    // 26, the device's number, as a digit beyond '9'.
    CHECK(Printed(*machine, '0' + 26));
    CHECK(machine->Stats().shared_dirs.size() == 1);
    CHECK(CodeOf(AttachDirectory(*machine, "work", directory.path())) == "ERR_DEVICE_EXISTS");
    // Both kinds share the slots.
    const auto drive = Attach(*machine, "data", disk.path());
    REQUIRE(drive.has_value());
    CHECK(drive->index == attached->index + 1);
    CHECK(CodeOf(AttachDirectory(*machine, "other", directory.path())) == "ERR_NO_FREE_SLOT");
    CHECK(CodeOf(Save(*machine, saved.path() + "/machine")) == "ERR_SNAPSHOT_UNSUPPORTED");
    REQUIRE(Detach(*machine, "work").has_value());
    CHECK(Printed(*machine, '0'));
    CHECK(machine->Stats().shared_dirs.empty());
    REQUIRE(Detach(*machine, "data").has_value());
  }
  CHECK(CodeOf(Detach(*machine, "work")) == "ERR_DEVICE_NOT_FOUND");
  REQUIRE(Save(*machine, saved.path() + "/machine").has_value());
  Close(machine);
  CHECK(CountEntries("/proc/self/fd") == descriptors);
}

TEST_CASE("what cannot be attached or detached is refused with its reason") {
  if (!HaveKvm()) return;
  const TinyKernel kernel(kTakeAndHold);
  const TempFile first(kDiskBytes);
  const TempFile second(kDiskBytes);
  const TempFile third(kDiskBytes);
  const TempFile odd(kDiskBytes + 1);
  const TempDirectory directory;
  Recorder recorder;
  MachineConfig config = WithSlots(kernel, 2);
  REQUIRE(config.drives.empty());
  auto machine = Create(config, recorder);
  REQUIRE(Start(*machine).has_value());
  CHECK(CodeOf(Attach(*machine, "data", first.path() + "-none")) == "ERR_DRIVE_NOT_FOUND");
  CHECK(CodeOf(Attach(*machine, "data", directory.path())) == "ERR_DRIVE_INVALID");
  CHECK(CodeOf(Attach(*machine, "data", odd.path())) == "ERR_DRIVE_INVALID");
  CHECK(CodeOf(Attach(*machine, "an id of more than twenty bytes", first.path())) ==
        "ERR_DRIVE_INVALID");
  CHECK(CodeOf(Detach(*machine, "data")) == "ERR_DEVICE_NOT_FOUND");
  REQUIRE(Attach(*machine, "data", first.path()).has_value());
  CHECK(CodeOf(Attach(*machine, "data", second.path())) == "ERR_DEVICE_EXISTS");
  CHECK(CodeOf(Attach(*machine, "other", first.path())) == "ERR_DRIVE_BUSY");
  REQUIRE(Attach(*machine, "other", second.path()).has_value());
  CHECK(CodeOf(Attach(*machine, "third", third.path())) == "ERR_NO_FREE_SLOT");
  CHECK(Printed(*machine, 'D'));
  CHECK(CodeOf(Detach(*machine, "data")) == "ERR_DEVICE_IN_USE");
  REQUIRE(Detach(*machine, "other").has_value());
  REQUIRE(Attach(*machine, "third", third.path()).has_value());
  REQUIRE(Kill(*machine).has_value());
  CHECK(CodeOf(Attach(*machine, "fourth", second.path())) == "ERR_MACHINE_STATE");
  CHECK(CodeOf(Detach(*machine, "third")) == "ERR_MACHINE_STATE");
  Close(machine);

  auto without = Create(Config(kernel), recorder);
  CHECK(CodeOf(Attach(*without, "data", first.path())) == "ERR_NO_FREE_SLOT");
  Close(without);
}

TEST_CASE("a guest that takes and releases a device does not hold it for ever") {
  if (!HaveKvm()) return;
  const TinyKernel kernel(kTakeAndRelease);
  const TempFile disk(kDiskBytes);
  Recorder recorder;
  auto machine = Create(WithSlots(kernel, 1), recorder);
  REQUIRE(Start(*machine).has_value());
  for (int round = 0; round < 20; ++round) {
    const std::uint64_t before = machine->Stats().console_bytes;
    REQUIRE(Attach(*machine, "data", disk.path()).has_value());
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (machine->Stats().console_bytes == before) {
      REQUIRE(std::chrono::steady_clock::now() < deadline);
      std::this_thread::yield();
    }
    Result<> detached = Detach(*machine, "data");
    while (!detached.has_value()) {
      CHECK(detached.error().code() == "ERR_DEVICE_IN_USE");
      REQUIRE(std::chrono::steady_clock::now() < deadline);
      detached = Detach(*machine, "data");
    }
  }
  Close(machine);
}

TEST_CASE("a snapshot has the slots and what is in them") {
  if (!HaveKvm()) return;
  const TinyKernel kernel(kPrintId);
  const TempFile disk(kDiskBytes);
  const TempFile other(kDiskBytes);
  const TempFile large(2 * kDiskBytes);
  const TempDirectory empty;
  const TempDirectory full;
  {
    Recorder recorder;
    auto machine = Create(WithSlots(kernel, 2), recorder);
    REQUIRE(Start(*machine).has_value());
    REQUIRE(Save(*machine, empty.path()).has_value());
    REQUIRE(Attach(*machine, "data", disk.path()).has_value());
    REQUIRE(Save(*machine, full.path()).has_value());
    Close(machine);
  }
  const auto restore = [](const TempDirectory& directory, std::vector<RestoreConfig::Drive> drives,
                          Recorder& recorder) {
    return Restore({.directory = directory.path(),
                    .drives = std::move(drives),
                    .vsock_cid = {},
                    .console_bytes = {}},
                   recorder);
  };
  Recorder first_recorder;
  Recorder second_recorder;
  auto from_empty = restore(empty, {}, first_recorder);
  REQUIRE(from_empty.has_value());
  REQUIRE(Resume(**from_empty).has_value());
  CHECK(Printed(**from_empty, '0'));
  REQUIRE(Attach(**from_empty, "data", disk.path()).has_value());
  CHECK(Printed(**from_empty, '2'));

  CHECK(CodeOf(restore(full, {}, second_recorder)) == "ERR_DRIVE_BUSY");
  CHECK(CodeOf(restore(full, {{"data", large.path()}}, second_recorder)) ==
        "ERR_SNAPSHOT_MISMATCH");
  auto from_full = restore(full, {{"data", other.path()}}, second_recorder);
  REQUIRE(from_full.has_value());
  REQUIRE(Resume(**from_full).has_value());
  CHECK(Printed(**from_full, '2'));
  CHECK(CodeOf(Attach(**from_full, "data", large.path())) == "ERR_DEVICE_EXISTS");
  const auto next = Attach(**from_full, "next", large.path());
  REQUIRE(next.has_value());
  CHECK(next->address == kSlotAddress + 0x1000);
  REQUIRE(Detach(**from_full, "data").has_value());
  CHECK(Printed(**from_full, '0'));
  Close(*from_empty);
  Close(*from_full);
}

}  // namespace
}  // namespace embervm::machine
