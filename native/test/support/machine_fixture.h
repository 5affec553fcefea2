// Whole machines under test: an observer that remembers, and calls that wait.
#ifndef EMBERVM_TEST_SUPPORT_MACHINE_FIXTURE_H_
#define EMBERVM_TEST_SUPPORT_MACHINE_FIXTURE_H_

#include <dirent.h>
#include <doctest/doctest.h>

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "machine/machine.h"
#include "test/support/tiny_kernel.h"

namespace embervm::test {

using machine::ExitInfo;
using machine::Machine;
using machine::MachineConfig;
using machine::MachineObserver;
using machine::MachineState;

inline constexpr auto kPatience = std::chrono::seconds(30);

class Recorder final : public MachineObserver {
 public:
  void OnVsockConnection(std::uint32_t, std::uint32_t, UniqueFd) override {}
  void OnDeviceError(std::string, std::string) override {}
  void OnConsoleOverflow(std::uint64_t) override {}
  void OnExit(ExitInfo info) override {
    const std::lock_guard lock(mutex_);
    exit_.emplace(std::move(info));
    ++exits_;
    changed_.notify_all();
  }

  std::optional<ExitInfo> WaitForExit() {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, kPatience, [this] { return exit_.has_value(); });
    return exit_;
  }
  int exits() {
    const std::lock_guard lock(mutex_);
    return exits_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<ExitInfo> exit_;
  int exits_ = 0;
};

inline MachineConfig Config(const TinyKernel& kernel, std::uint32_t vcpus = 1) {
  MachineConfig config;
  config.kernel_path = kernel.path();
  config.vcpus = vcpus;
  config.memory_mib = 32;
  config.vsock_cid = 3;
  config.console_bytes = 4096;
  return config;
}

// Runs one asynchronous operation and waits for its answer.
template <class Operation>
Result<> Await(Operation operation) {
  // Shared: the answering thread may still be inside set_value() when it is waited for.
  const auto promise = std::make_shared<std::promise<Result<>>>();
  auto future = promise->get_future();
  operation([promise](Result<> result) { promise->set_value(std::move(result)); });
  REQUIRE(future.wait_for(kPatience) == std::future_status::ready);
  return future.get();
}

inline std::unique_ptr<Machine> Create(MachineConfig config, Recorder& recorder) {
  std::unique_ptr<Machine> machine;
  const Result<> created = Await([&](Machine::Callback done) {
    auto made = Machine::Create(std::move(config), recorder, std::move(done));
    REQUIRE(made.has_value());
    machine = std::move(made).value();
  });
  if (!created.has_value()) FAIL(created.error().message());
  return machine;
}

inline void Close(std::unique_ptr<Machine>& machine) {
  const auto closed = std::make_shared<std::promise<void>>();
  machine->Close([closed] { closed->set_value(); });
  REQUIRE(closed->get_future().wait_for(kPatience) == std::future_status::ready);
  machine->Join();
  CHECK(machine->state() == MachineState::kClosed);
  machine.reset();
}

inline std::size_t CountEntries(const char* directory) {
  std::size_t count = 0;
  DIR* const handle = ::opendir(directory);
  REQUIRE(handle != nullptr);
  while (::readdir(handle) != nullptr) ++count;
  ::closedir(handle);
  return count;
}

// Of this process, when their number stands still: a thread that was joined is in /proc until the
// kernel has buried it.
inline std::size_t CountThreads() {
  constexpr int kStill = 20;
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  std::size_t count = CountEntries("/proc/self/task");
  for (int still = 0; still < kStill && std::chrono::steady_clock::now() < deadline; ++still) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    const std::size_t now = CountEntries("/proc/self/task");
    if (now != std::exchange(count, now)) still = 0;
  }
  return count;
}

inline Result<> Start(Machine& machine) {
  return Await([&](Machine::Callback done) { machine.Start(std::move(done)); });
}
inline Result<> Pause(Machine& machine) {
  return Await([&](Machine::Callback done) { machine.Pause(std::move(done)); });
}
inline Result<> Resume(Machine& machine) {
  return Await([&](Machine::Callback done) { machine.Resume(std::move(done)); });
}
inline Result<> Kill(Machine& machine) {
  return Await([&](Machine::Callback done) { machine.Kill(std::move(done)); });
}

}  // namespace embervm::test

#endif  // EMBERVM_TEST_SUPPORT_MACHINE_FIXTURE_H_
