// virtio-vsock packets of any content, in any order, against hosts that connect, write,
// read and close at any moment.
#include <fuzzer/FuzzedDataProvider.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/bytes.h"
#include "base/event_loop.h"
#include "base/unique_fd.h"
#include "devices/vsock/device.h"
#include "devices/vsock/protocol.h"
#include "fuzz/device_harness.h"

namespace embervm::fuzz {
namespace {

namespace vsock = devices::vsock;

constexpr std::uint64_t kCid = 3;
constexpr std::uint32_t kListenPort = 3;
constexpr std::uint32_t kFirstHostPort = 1U << 30U;
constexpr std::uint32_t kPorts = 4;
constexpr std::size_t kMaxConnections = 6;
constexpr std::size_t kMaxPayload = 600;
constexpr std::uint32_t kMaxBuffer = 700;
constexpr int kMaxSteps = 150;

class Scenario {
 public:
  Scenario(FuzzedDataProvider& input, EventLoop& loop)
      : input_(input), loop_(loop), device_(loop, Options()), harness_(device_, loop) {
    Listen();
  }

  void Run() {
    for (int step = 0; step < kMaxSteps && input_.remaining_bytes() > 0; ++step) {
      Step();
      Check();
    }
    // A drained device is at rest: nothing is left to do on the loop's next turn.
    Turn();
    Check();
  }

 private:
  static devices::VsockMuxer::Options Options() {
    devices::VsockMuxer::Options options;
    options.guest_cid = kCid;
    options.connect_timeout = std::chrono::milliseconds(1);
    options.close_timeout = std::chrono::milliseconds(1);
    options.max_connections = kMaxConnections;
    return options;
  }

  void Listen() {
    device_.muxer().Listen(kListenPort, [this](std::uint32_t, UniqueFd stream) {
      hosts_.push_back(std::move(stream));
    });
  }

  void Step() {
    switch (input_.ConsumeIntegralInRange<int>(0, 9)) {
      case 0:
      case 1:
      case 2:
        return SendPacket();
      case 3:
        return GiveBuffer();
      case 4:
        return device_.muxer().Connect(input_.ConsumeIntegralInRange<std::uint32_t>(0, kPorts),
                                       [this](Result<UniqueFd> stream) {
                                         if (stream.has_value()) {
                                           hosts_.push_back(std::move(stream).value());
                                         }
                                       });
      case 5:
        return WithHost([this](UniqueFd& host) {
          const auto bytes = input_.ConsumeBytes<std::byte>(kMaxPayload);
          static_cast<void>(
              ::send(host.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT));
        });
      case 6:
        return WithHost([](UniqueFd& host) {
          std::array<std::byte, kMaxPayload> bytes{};
          static_cast<void>(::recv(host.get(), bytes.data(), bytes.size(), MSG_DONTWAIT));
        });
      case 7:
        return WithHost([this](UniqueFd& host) {
          if (input_.ConsumeBool()) {
            ::shutdown(host.get(), SHUT_WR);
          } else {
            host.Reset();
          }
        });
      case 8:
        if (input_.ConsumeBool()) device_.AfterRestore();
        if (input_.ConsumeBool()) {
          device_.muxer().Unlisten(kListenPort);
        } else {
          Listen();
        }
        return;
      default:
        return Turn();
    }
  }

  // What is ready now, and the timers that are due.
  void Turn() {
    loop_.Stop();
    loop_.Run();
  }

  template <class Action>
  void WithHost(Action action) {
    if (hosts_.empty()) return;
    const auto index = input_.ConsumeIntegralInRange<std::size_t>(0, hosts_.size() - 1);
    action(hosts_[index]);
    std::erase_if(hosts_, [](const UniqueFd& host) { return !host.valid(); });
  }

  void SendPacket() {
    vsock::Header header{};
    header.src_cid = input_.ConsumeProbability<float>() < 0.9F ? kCid : 0;
    header.dst_cid = input_.ConsumeProbability<float>() < 0.9F ? vsock::kHostCid : 0;
    header.src_port = input_.ConsumeIntegralInRange<std::uint32_t>(0, kPorts);
    header.dst_port =
        input_.ConsumeBool()
            ? kListenPort
            : kFirstHostPort + input_.ConsumeIntegralInRange<std::uint32_t>(0, kPorts);
    header.type = input_.ConsumeProbability<float>() < 0.9F
                      ? vsock::kTypeStream
                      : input_.ConsumeIntegral<std::uint8_t>();
    header.op = input_.ConsumeIntegralInRange<std::uint16_t>(0, 8);
    header.flags = input_.ConsumeIntegralInRange<std::uint32_t>(0, 4);
    header.buf_alloc = input_.ConsumeIntegral<std::uint32_t>();
    header.fwd_cnt = input_.ConsumeBool() ? input_.ConsumeIntegral<std::uint32_t>() : 0;
    const std::vector<std::byte> payload =
        input_.ConsumeBytes<std::byte>(input_.ConsumeIntegralInRange<std::size_t>(0, kMaxPayload));
    header.len = input_.ConsumeBool() ? static_cast<std::uint32_t>(payload.size())
                                      : input_.ConsumeIntegral<std::uint32_t>();
    const auto cut = input_.ConsumeBool() ? input_.ConsumeIntegralInRange<std::uint32_t>(0, 50) : 0;

    test::DriverQueue& queue = harness_.queue(vsock::kTxQueue);
    const auto length = static_cast<std::uint32_t>(sizeof(header) + payload.size());
    const GuestAddr addr = harness_.arena().Allocate(length);
    Require(SharedMemory().Write(addr, AsBytes(header)).has_value());
    Require(SharedMemory().Write(addr + sizeof(header), payload).has_value());
    const std::uint16_t head = queue.Add({{addr, length - std::min(cut, length), false}});
    harness_.Notify(vsock::kTxQueue);
    const auto used = queue.PopUsed();
    Require(used.has_value() && used->id == head && used->len == 0);
  }

  void GiveBuffer() {
    test::DriverQueue& queue = harness_.queue(vsock::kRxQueue);
    if (queue.free_descriptors() == 0) return;
    const auto length = input_.ConsumeIntegralInRange<std::uint32_t>(0, kMaxBuffer);
    queue.Add({{harness_.arena().Allocate(length), length, true}});
    if (queue.TakeKick()) harness_.Notify(vsock::kRxQueue);
  }

  void Check() {
    while (const auto used = harness_.queue(vsock::kRxQueue).PopUsed()) {
      Require(used->len == 0 || (used->len >= sizeof(vsock::Header) && used->len <= kMaxBuffer));
    }
    Require(device_.counters().connections <= kMaxConnections);
    Require(!harness_.failed());
  }

  FuzzedDataProvider& input_;
  EventLoop& loop_;
  std::vector<UniqueFd> hosts_;
  devices::VsockDevice device_;
  DeviceHarness harness_;
};

}  // namespace
}  // namespace embervm::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::unique_ptr<embervm::EventLoop> loop = embervm::EventLoop::Create().value();
  FuzzedDataProvider input(data, size);
  embervm::fuzz::Scenario(input, *loop).Run();
  return 0;
}
