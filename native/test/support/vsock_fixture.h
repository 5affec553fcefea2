// VsockFixture: a vsock device, its thread and a guest, for the tests of the protocol.
#ifndef EMBERVM_TEST_SUPPORT_VSOCK_FIXTURE_H_
#define EMBERVM_TEST_SUPPORT_VSOCK_FIXTURE_H_

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "devices/vsock/device.h"
#include "test/support/vsock_guest.h"

namespace embervm::test {

// Descriptors of this process.
inline int CountDescriptors() {
  int count = 0;
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(::opendir("/proc/self/fd"), ::closedir);
  while (::readdir(directory.get()) != nullptr) ++count;
  return count;
}

inline std::vector<std::byte> RandomBytes(std::size_t length, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> bytes(length);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

// All of `bytes`, waiting for the socket as needed. False when the reader has gone.
[[nodiscard]] inline bool SendAll(int fd, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent > 0) {
      bytes = bytes.subspan(static_cast<std::size_t>(sent));
    } else if (errno == EAGAIN) {
      pollfd state{.fd = fd, .events = POLLOUT, .revents = 0};
      ::poll(&state, 1, 1000);
    } else {
      return false;
    }
  }
  return true;
}

// What arrives until `length` bytes are there, or the end of the stream.
[[nodiscard]] inline std::vector<std::byte> ReceiveUpTo(int fd, std::size_t length) {
  std::vector<std::byte> bytes;
  std::vector<std::byte> chunk(65536);
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (bytes.size() < length && std::chrono::steady_clock::now() < deadline) {
    const ssize_t got = ::recv(fd, chunk.data(), std::min(chunk.size(), length - bytes.size()), 0);
    if (got > 0) {
      bytes.insert(bytes.end(), chunk.begin(), chunk.begin() + got);
    } else if (got < 0 && errno == EAGAIN) {
      pollfd state{.fd = fd, .events = POLLIN, .revents = 0};
      ::poll(&state, 1, 1000);
    } else {
      break;
    }
  }
  return bytes;
}

// recv(2)'s answer once there is one: 0 at the end of the stream, -1 for an error.
[[nodiscard]] inline ssize_t ReceiveEnd(int fd) {
  pollfd state{.fd = fd, .events = POLLIN, .revents = 0};
  ::poll(&state, 1, 20000);
  std::byte byte{};
  return ::recv(fd, &byte, 1, MSG_DONTWAIT);
}

struct VsockFixture {
  static devices::VsockMuxer::Options WithCid(devices::VsockMuxer::Options options) {
    options.guest_cid = VsockGuest::kCid;
    return options;
  }

  explicit VsockFixture(devices::VsockMuxer::Options options = {})
      : device(thread.loop(), WithCid(options)), guest(device, thread) {}
  VsockFixture(const VsockFixture&) = delete;
  VsockFixture& operator=(const VsockFixture&) = delete;
  ~VsockFixture() { thread.Stop(); }

  // Begins a connection to the guest; its outcome goes to `outcomes`.
  void StartConnect(std::uint32_t port) {
    thread.Call([this, port] {
      device.muxer().Connect(port, [this](Result<UniqueFd> result) {
        const std::lock_guard lock(mutex);
        outcomes.push_back(std::move(result));
      });
    });
  }
  Result<UniqueFd> WaitOutcome() {
    REQUIRE(Eventually([this] {
      const std::lock_guard lock(mutex);
      return !outcomes.empty();
    }));
    const std::lock_guard lock(mutex);
    Result<UniqueFd> first = std::move(outcomes.front());
    outcomes.erase(outcomes.begin());
    return first;
  }

  struct Pair {
    UniqueFd host;
    VsockGuestStream stream;
  };
  // A stream that the host opened.
  Pair Connect(std::uint32_t port = 1024, std::uint32_t buf_alloc = VsockGuest::kBufAlloc) {
    StartConnect(port);
    const VsockPacket request = guest.Expect(vsock::kOpRequest);
    REQUIRE(+request.header.dst_port == port);
    VsockGuestStream stream(guest, port, request.header.src_port, buf_alloc);
    stream.OnPacket(request);
    stream.Send(vsock::kOpResponse);
    Result<UniqueFd> outcome = WaitOutcome();
    REQUIRE(outcome.has_value());
    return {std::move(outcome).value(), std::move(stream)};
  }

  void Listen(std::uint32_t port) {
    thread.Call([this, port] {
      device.muxer().Listen(port, [this](std::uint32_t guest_port, UniqueFd stream) {
        const std::lock_guard lock(mutex);
        accepted.emplace_back(guest_port, std::move(stream));
      });
    });
  }
  // A stream that the guest opened to a port on which the host listens.
  Pair Accept(std::uint32_t guest_port, std::uint32_t host_port) {
    VsockGuestStream stream(guest, guest_port, host_port);
    stream.Send(vsock::kOpRequest);
    VsockPacket response = guest.Receive();
    // Earlier streams may still have something to say.
    while (response.header.dst_port != guest_port) response = guest.Receive();
    REQUIRE(+response.header.op == vsock::kOpResponse);
    stream.OnPacket(response);
    const std::lock_guard lock(mutex);
    REQUIRE_FALSE(accepted.empty());
    UniqueFd host = std::move(accepted.back().second);
    accepted.pop_back();
    return {std::move(host), std::move(stream)};
  }

  // CPU time of the device thread during `pause`.
  std::chrono::microseconds CpuTimeDuring(std::chrono::milliseconds pause) {
    const auto now = [this] {
      rusage usage{};
      thread.Call([&usage] { ::getrusage(RUSAGE_THREAD, &usage); });
      return std::chrono::seconds(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
             std::chrono::microseconds(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
    };
    const auto before = now();
    std::this_thread::sleep_for(pause);
    return now() - before;
  }

  std::mutex mutex;
  std::vector<Result<UniqueFd>> outcomes;
  std::vector<std::pair<std::uint32_t, UniqueFd>> accepted;
  LoopThread thread;
  devices::VsockDevice device;
  VsockGuest guest;
};

}  // namespace embervm::test

#endif  // EMBERVM_TEST_SUPPORT_VSOCK_FIXTURE_H_
