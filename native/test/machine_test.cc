// Whole machines on real KVM, with guests of a few instructions: the threads,
// the state machine, and that nothing stays behind.
#include "machine/machine.h"

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <thread>

#include "test/kvm_micro_guest.h"
#include "test/support/machine_fixture.h"
#include "test/support/tiny_kernel.h"

namespace embervm::machine {
namespace {

using test::HaveKvm;
using test::TinyKernel;

using test::Await;
using test::Close;
using test::Config;
using test::CountEntries;
using test::CountThreads;
using test::Create;
using test::Kill;
using test::kPatience;
using test::Pause;
using test::Recorder;
using test::Resume;
using test::Start;

// jmp .
const std::initializer_list<std::uint8_t> kSpin = {0xeb, 0xfe};
// mov dx, 0x604; mov ax, 0x2000; out dx, ax; jmp .
const std::initializer_list<std::uint8_t> kPowerOff = {0x66, 0xba, 0x04, 0x06, 0x66, 0xb8,
                                                       0x00, 0x20, 0x66, 0xef, 0xeb, 0xfe};
// mov al, 0xfe; out 0x64, al; jmp .
const std::initializer_list<std::uint8_t> kReset = {0xb0, 0xfe, 0xe6, 0x64, 0xeb, 0xfe};
// mov dx, 0x505; mov al, 1; out dx, al; then as kReset.
const std::initializer_list<std::uint8_t> kPanic = {0x66, 0xba, 0x05, 0x05, 0xb0, 0x01, 0xee,
                                                    0xb0, 0xfe, 0xe6, 0x64, 0xeb, 0xfe};
// mov dx, 0x3f8; mov al, 'A'; out dx, al; jmp the out.
const std::initializer_list<std::uint8_t> kPrint = {0x66, 0xba, 0xf8, 0x03, 0xb0,
                                                    0x41, 0xee, 0xeb, 0xfd};

TEST_CASE("a guest that ends tells how") {
  if (!HaveKvm()) return;
  struct Case {
    std::initializer_list<std::uint8_t> code;
    ExitReason reason;
    MachineState state;
  };
  for (const Case& expected : {Case{kPowerOff, ExitReason::kPowerOff, MachineState::kStopped},
                               Case{kReset, ExitReason::kReset, MachineState::kStopped},
                               Case{kPanic, ExitReason::kPanic, MachineState::kCrashed}}) {
    const TinyKernel kernel(expected.code);
    Recorder recorder;
    auto machine = Create(Config(kernel), recorder);
    CHECK(machine->state() == MachineState::kCreated);
    REQUIRE(Start(*machine).has_value());
    const auto exit = recorder.WaitForExit();
    REQUIRE(exit.has_value());
    CHECK(exit->reason == expected.reason);
    CHECK(machine->state() == expected.state);
    CHECK(Kill(*machine).has_value());
    Close(machine);
    CHECK(recorder.exits() == 1);
  }
}

TEST_CASE("pause, resume and kill in every state") {
  if (!HaveKvm()) return;
  const TinyKernel kernel(kSpin);
  Recorder recorder;
  auto machine = Create(Config(kernel, 2), recorder);
  CHECK(Pause(*machine).error().code() == "ERR_MACHINE_STATE");
  CHECK(Resume(*machine).error().code() == "ERR_MACHINE_STATE");
  REQUIRE(Start(*machine).has_value());
  CHECK(Start(*machine).error().code() == "ERR_MACHINE_STATE");
  for (int round = 0; round < 20; ++round) {
    REQUIRE(Pause(*machine).has_value());
    CHECK(machine->state() == MachineState::kPaused);
    CHECK(Pause(*machine).has_value());
    REQUIRE(Resume(*machine).has_value());
    CHECK(machine->state() == MachineState::kRunning);
  }
  REQUIRE(Pause(*machine).has_value());
  REQUIRE(Kill(*machine).has_value());
  CHECK(recorder.WaitForExit()->reason == ExitReason::kKilled);
  CHECK(machine->state() == MachineState::kStopped);
  CHECK(Resume(*machine).error().code() == "ERR_MACHINE_STATE");
  Close(machine);
}

TEST_CASE("a paused guest stands still") {
  if (!HaveKvm()) return;
  const TinyKernel kernel(kPrint);
  Recorder recorder;
  auto machine = Create(Config(kernel), recorder);
  REQUIRE(Start(*machine).has_value());
  while (machine->Stats().console_bytes < 100) std::this_thread::yield();
  REQUIRE(Pause(*machine).has_value());
  const auto where = [&] {
    std::promise<Result<std::vector<std::uint64_t>>> promise;
    auto future = promise.get_future();
    machine->InstructionPointers([&](auto addresses) { promise.set_value(std::move(addresses)); });
    return future.get();
  };
  const auto stands_at = where();
  REQUIRE(stands_at.has_value());
  REQUIRE(stands_at->size() == 1);
  CHECK(stands_at->front() != 0);
  CHECK(where().value() == *stands_at);
  const auto before = machine->Stats();
  CHECK(before.setup_ns > 0);
  CHECK(before.vcpus.at(0).cpu_time_ns > 0);
  // Each character was the access of a port.
  CHECK(before.vcpus.at(0).device_time_ns > 0);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const auto later = machine->Stats();
  CHECK(later.console_bytes == before.console_bytes);
  CHECK(later.vcpus.at(0).device_time_ns == before.vcpus.at(0).device_time_ns);
  CHECK(later.at_ns - before.at_ns >= 20'000'000);
  const auto resident = machine->ResidentCounter();
  CHECK(resident().value_or(0) > 0);
  REQUIRE(Resume(*machine).has_value());
  CHECK(where().error().code() == "ERR_MACHINE_STATE");
  while (machine->Stats().console_bytes == before.console_bytes) std::this_thread::yield();
  const auto tail = machine->ConsoleTail(10);
  CHECK(tail.size() == 10);
  CHECK(tail.front() == std::byte{'A'});
  Close(machine);
  CHECK_FALSE(resident().has_value());
  CHECK(recorder.exits() == 0);
}

TEST_CASE("a machine that cannot be built says why and leaves nothing") {
  if (!HaveKvm()) return;
  const std::size_t descriptors = CountEntries("/proc/self/fd");
  Recorder recorder;
  MachineConfig config;
  config.memory_mib = 32;
  config.console_bytes = 4096;
  config.kernel_path = "/nonexistent/vmlinux";
  std::unique_ptr<Machine> machine;
  const Result<> created = Await([&](Machine::Callback done) {
    machine = std::move(Machine::Create(config, recorder, std::move(done))).value();
  });
  REQUIRE(!created.has_value());
  CHECK(created.error().code() == "ERR_KERNEL_NOT_FOUND");
  CHECK(Start(*machine).error().code() == "ERR_MACHINE_CLOSED");
  machine.reset();
  CHECK(CountEntries("/proc/self/fd") == descriptors);
}

TEST_CASE("descriptors and threads return to where they began") {
  if (!HaveKvm()) return;
  const TinyKernel kernel(kSpin);
  const std::size_t descriptors = CountEntries("/proc/self/fd");
  const std::size_t threads = CountThreads();
  for (int round = 0; round < 10; ++round) {
    Recorder recorder;
    auto machine = Create(Config(kernel, 2), recorder);
    if (round % 3 != 0) REQUIRE(Start(*machine).has_value());
    if (round % 3 == 2) REQUIRE(Pause(*machine).has_value());
    if (round % 2 == 0) {
      Close(machine);
    } else {
      machine.reset();  // The destructor closes too.
    }
  }
  CHECK(CountEntries("/proc/self/fd") == descriptors);
  CHECK(CountThreads() == threads);
}

TEST_CASE("calls that race with closing are answered") {
  if (!HaveKvm()) return;
  const TinyKernel kernel(kSpin);
  for (int round = 0; round < 10; ++round) {
    Recorder recorder;
    auto machine = Create(Config(kernel), recorder);
    REQUIRE(Start(*machine).has_value());
    std::atomic<int> answers = 0;
    const auto count = [&answers](auto&&) { ++answers; };
    machine->Pause(count);
    machine->ConnectVsock(1, count);
    const auto closed = std::make_shared<std::promise<void>>();
    machine->Close([closed] { closed->set_value(); });
    machine->Resume(count);
    machine->Kill(count);
    REQUIRE(closed->get_future().wait_for(kPatience) == std::future_status::ready);
    machine.reset();
    CHECK(answers == 4);
  }
}

}  // namespace
}  // namespace embervm::machine
