// virtio-fs against a driver, on real directories.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/file.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "devices/fs/device.h"
#include "test/support/driver.h"
#include "test/support/fuse_client.h"
#include "test/support/temp_directory.h"

namespace embervm::devices {
namespace {

using test::Driver;
using test::DriverBuffer;
using test::FuseBody;
using test::FuseClient;
using test::LoopThread;
using test::TempDirectory;

constexpr std::size_t kHiprio = 0;
constexpr std::size_t kRequests = 1;

std::size_t OpenDescriptors() {
  const std::filesystem::directory_iterator descriptors("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(descriptors), end(descriptors)));
}

struct Fixture {
  explicit Fixture(FsOptions options = {}) : device(Open(std::move(options))) { driver.Start(); }

  std::unique_ptr<FsDevice> Open(FsOptions options) {
    options.tag = "share";
    options.path = directory.path();
    return FsDevice::Open(options).value();
  }
  // Without waiting for the answer.
  GuestAddr Submit(std::span<const std::byte> message, std::size_t room,
                   std::size_t queue = kRequests) {
    std::vector<DriverBuffer> buffers;
    // The framing is the driver's choice: the header on its own, as Linux does it.
    const std::size_t header = std::min(message.size(), sizeof(fs::InHeader));
    buffers.push_back(
        {driver.Put(message.first(header)), static_cast<std::uint32_t>(header), false});
    if (message.size() > header) {
      buffers.push_back({driver.Put(message.subspan(header)),
                         static_cast<std::uint32_t>(message.size() - header), false});
    }
    GuestAddr answer = 0;
    if (room > 0) {
      answer = driver.arena().Allocate(room);
      constexpr std::uint32_t kSplit = sizeof(fs::OutHeader);
      buffers.push_back({answer, kSplit, true});
      buffers.push_back({answer + kSplit, static_cast<std::uint32_t>(room) - kSplit, true});
    }
    driver.queue(queue).Add(buffers);
    driver.KickIfAsked(queue);
    return answer;
  }
  std::vector<std::byte> Exchange(std::span<const std::byte> message, std::size_t room) {
    // Messages without an answer come on the queue that is for them.
    const std::size_t queue = room == 0 ? kHiprio : kRequests;
    const GuestAddr answer = Submit(message, room, queue);
    const std::uint32_t used = driver.WaitUsed(queue).len;
    return used == 0 ? std::vector<std::byte>() : driver.Get(answer, used);
  }

  TempDirectory directory;
  std::unique_ptr<FsDevice> device;
  LoopThread thread;
  Driver driver{*device, thread};
  FuseClient client{[this](auto message, std::size_t room) { return Exchange(message, room); }};
};

TEST_CASE("fs: tag and queues") {
  Fixture f;
  CHECK(f.driver.Read32(virtio::kRegDeviceId) == 26);
  fs::Config config{};
  f.driver.transport().Read(virtio::kRegConfig,
                            std::as_writable_bytes(std::span<fs::Config, 1>(&config, 1)));
  CHECK(std::string(config.tag.data()) == "share");
  CHECK(config.num_request_queues == 1);
  CHECK(f.driver.transport().queue_count() == 2);
}

TEST_CASE("fs: requests through the queues") {
  Fixture f;
  REQUIRE(f.client.Init().error == 0);
  const auto made = f.client.Create(fs::kRootId, "file");
  REQUIRE(made.error == 0);
  const std::uint64_t node = made.As<fs::EntryOut>().nodeid;
  const std::uint64_t handle = made.As<fs::OpenOut>(sizeof(fs::EntryOut)).handle;
  const std::string data(200000, 'd');
  CHECK(f.client.Write(node, handle, 0, data).As<fs::WriteOut>().size == data.size());
  CHECK(f.client.Read(node, handle, 0, 200000).text() == data);
  CHECK(std::filesystem::file_size(f.directory.path() + "/file") == data.size());
  f.client.Send(fs::Opcode::kForget, node, FuseBody().Add(fs::ForgetIn{.lookups = 1}));
  CHECK(f.client.Call(fs::Opcode::kGetattr, node, FuseBody().Add(fs::GetattrIn{})).error == ESTALE);
  const FsDevice::Counters counters = f.device->counters();
  CHECK(counters.requests == 6);
  CHECK(counters.errors == 1);
  CHECK(counters.read_bytes == data.size());
  CHECK(counters.written_bytes == data.size());
  CHECK(f.driver.failures().empty());
}

TEST_CASE("fs: many requests in flight are all answered") {
  Fixture f;
  REQUIRE(f.client.Init().error == 0);
  constexpr int kBatches = 20;
  constexpr int kInFlight = 60;
  for (int batch = 0; batch < kBatches; ++batch) {
    std::vector<GuestAddr> answers;
    for (int i = 0; i < kInFlight; ++i) {
      const auto message =
          f.client.Message(fs::Opcode::kGetattr, fs::kRootId, FuseBody().Add(fs::GetattrIn{}));
      answers.push_back(f.Submit(message, sizeof(fs::OutHeader) + sizeof(fs::AttributesOut)));
    }
    for (int i = 0; i < kInFlight; ++i) {
      CHECK(f.driver.WaitUsed(kRequests).len == sizeof(fs::OutHeader) + sizeof(fs::AttributesOut));
    }
    for (const GuestAddr answer : answers) {
      CHECK(LoadLe<fs::OutHeader>(f.driver.Get(answer, sizeof(fs::OutHeader))).error == 0);
    }
  }
}

TEST_CASE("fs: a lock that waits holds up nobody") {
  FsOptions options;
  options.host_locks = true;
  Fixture f(options);
  REQUIRE(f.client.Init().error == 0);
  std::ofstream(f.directory.path() + "/file") << "x";
  UniqueFd holder(::open((f.directory.path() + "/file").c_str(), O_RDWR | O_CLOEXEC));
  REQUIRE(::flock(holder.get(), LOCK_EX) == 0);
  const std::uint64_t node = f.client.Walk({"file"});
  fs::LockIn lock{};
  lock.handle = f.client.Handle(node, O_RDWR);
  lock.flags = fs::kLockFlock;
  lock.lock.type = F_WRLCK;
  const auto waits = f.client.Message(fs::Opcode::kSetlkw, node, FuseBody().Add(lock));
  const GuestAddr answer = f.Submit(waits, sizeof(fs::OutHeader));
  // This one goes past it.
  CHECK(f.client.Attributes(node).size == 1);
  holder.Reset();
  CHECK(f.driver.WaitUsed(kRequests).len == sizeof(fs::OutHeader));
  CHECK(LoadLe<fs::OutHeader>(f.driver.Get(answer, sizeof(fs::OutHeader))).error == 0);
}

TEST_CASE("fs: reset with requests in flight gives everything back") {
  const std::size_t before = OpenDescriptors();
  {
    FsOptions options;
    options.host_locks = true;
    Fixture f(options);
    std::ofstream(f.directory.path() + "/file") << std::string(100000, 'x');
    const UniqueFd holder(::open((f.directory.path() + "/file").c_str(), O_RDWR | O_CLOEXEC));
    REQUIRE(::flock(holder.get(), LOCK_EX) == 0);
    const std::size_t at_rest = OpenDescriptors();
    for (int round = 0; round < 10; ++round) {
      REQUIRE(f.client.Init().error == 0);
      const std::uint64_t node = f.client.Walk({"file"});
      fs::LockIn lock{};
      lock.handle = f.client.Handle(node, O_RDWR);
      lock.flags = fs::kLockFlock;
      lock.lock.type = F_WRLCK;
      f.Submit(f.client.Message(fs::Opcode::kSetlkw, node, FuseBody().Add(lock)), 64);
      fs::ReadIn in{};
      in.handle = lock.handle;
      in.size = 100000;
      for (int i = 0; i < 30; ++i) {
        f.Submit(f.client.Message(fs::Opcode::kRead, node, FuseBody().Add(in)), 100016);
      }
      f.driver.Start();
      CHECK(OpenDescriptors() == at_rest);
      // The new driver has to introduce itself.
      CHECK(f.client.Lookup(fs::kRootId, "file").error == ENOTCONN);
    }
    REQUIRE(f.client.Init().error == 0);
    f.client.Walk({"file"});
  }
  CHECK(OpenDescriptors() == before);
}

TEST_CASE("fs: a broken ring stops the device, not the process") {
  Fixture f;
  REQUIRE(f.client.Init().error == 0);
  f.driver.queue(kRequests).SetAvailIndex(30000);
  f.driver.Kick(kRequests);
  CHECK(test::Eventually(
      [&] { return (f.driver.Read32(virtio::kRegStatus) & virtio::kStatusNeedsReset) != 0; }));
  CHECK(f.driver.failures().size() == 1);
  f.driver.Start();
  CHECK(f.client.Init().error == 0);
}

TEST_CASE("fs: malformed chains go back unanswered") {
  Fixture f;
  REQUIRE(f.client.Init().error == 0);
  // An address outside of RAM, and a message without room for an answer.
  f.driver.queue(kRequests).Add({{~GuestAddr{0} - 100, 40, false}, {0x1000, 64, true}});
  f.driver.Kick(kRequests);
  CHECK(f.driver.WaitUsed(kRequests).len == 0);
  f.driver.queue(kRequests).Add({{f.driver.arena().Allocate(8), 8, true}});
  f.driver.KickIfAsked(kRequests);
  CHECK(f.driver.WaitUsed(kRequests).len == 0);
  CHECK(f.client.Attributes(fs::kRootId).links > 0);
}

TEST_CASE("fs: cannot be saved") {
  Fixture f;
  const Result<> saved = f.device->BeforeSave();
  REQUIRE_FALSE(saved.has_value());
  CHECK(saved.error().code() == "ERR_SNAPSHOT_UNSUPPORTED");
}

}  // namespace
}  // namespace embervm::devices
