// virtio-mem: requests of any content and framing, and a host that changes its mind, against a
// model of what the guest may have.
#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/bytes.h"
#include "devices/mem/device.h"
#include "fuzz/device_harness.h"

namespace embervm::fuzz {
namespace {

using devices::mem::Request;
using devices::mem::Response;

// The arena is bounded: so is the number of requests.
constexpr int kMaxSteps = 64;
constexpr std::uint64_t kBlock = 8192;
constexpr std::uint64_t kBlocks = 32;
// Above what the arena gives out.
constexpr GuestAddr kBase = kMemoryBytes / 2;
constexpr std::uint64_t kRegion = kBlocks * kBlock;

// Near something that makes sense, or not.
Request TakeRequest(FuzzedDataProvider& input) {
  Request request{};
  request.type = input.ConsumeBool() ? input.ConsumeIntegralInRange<std::uint16_t>(0, 4)
                                     : input.ConsumeIntegral<std::uint16_t>();
  if (input.ConsumeIntegralInRange(0, 7) > 0) {
    request.addr = kBase + input.ConsumeIntegralInRange<std::uint64_t>(0, kBlocks) * kBlock;
    request.nb_blocks = input.ConsumeIntegralInRange<std::uint16_t>(0, 8);
  } else {
    request.addr = input.ConsumeIntegral<std::uint64_t>();
    request.nb_blocks = input.ConsumeIntegral<std::uint16_t>();
  }
  return request;
}

class Model {
 public:
  explicit Model(std::uint64_t requested) : requested_(requested) {}

  void SetRequested(std::uint64_t bytes) { requested_ = bytes; }
  [[nodiscard]] std::uint64_t plugged() const {
    return static_cast<std::uint64_t>(std::ranges::count(blocks_, true)) * kBlock;
  }
  [[nodiscard]] bool has(std::uint64_t block) const { return blocks_.at(block); }

  Response Serve(const Request& request) {
    if (request.type == devices::mem::kRequestUnplugAll) {
      blocks_.fill(false);
      return {.type = devices::mem::kResponseAck};
    }
    const Response error{.type = devices::mem::kResponseError};
    if (request.type > devices::mem::kRequestState || request.nb_blocks == 0) return error;
    if (request.addr < kBase || request.addr >= kBase + kRegion) return error;
    if ((request.addr - kBase) % kBlock != 0) return error;
    const std::uint64_t first = (request.addr - kBase) / kBlock;
    if (request.nb_blocks > kBlocks - first) return error;
    const auto range = std::span(blocks_).subspan(first, request.nb_blocks);
    const auto count = static_cast<std::uint64_t>(std::ranges::count(range, true));
    if (request.type == devices::mem::kRequestState) {
      Response response{.type = devices::mem::kResponseAck};
      response.state = count == 0 ? devices::mem::kStateUnplugged : devices::mem::kStateMixed;
      if (count == range.size()) response.state = devices::mem::kStatePlugged;
      return response;
    }
    const bool plug = request.type == devices::mem::kRequestPlug;
    if (count != (plug ? 0 : range.size())) return error;
    if (plug && plugged() + range.size() * kBlock > requested_) {
      return {.type = devices::mem::kResponseNack};
    }
    std::ranges::fill(range, plug);
    return {.type = devices::mem::kResponseAck};
  }

 private:
  std::uint64_t requested_;
  std::array<bool, kBlocks> blocks_{};
};

void Check(const devices::MemDevice& device, const Model& model) {
  Require(device.counters().plugged_bytes == model.plugged());
  std::uint64_t bytes = 0;
  for (const GuestMemory::Extent& extent : device.Plugged()) {
    Require(devices::mem::IsBlockList({&extent, 1}, kRegion, kBlock));
    bytes += extent.length;
    Require(model.has(extent.offset / kBlock));
  }
  Require(bytes == model.plugged());
}

void Send(FuzzedDataProvider& input, DeviceHarness& harness, Model& model) {
  const Request request = TakeRequest(input);
  // Cut off, or longer, and in as many pieces.
  const bool plain = input.ConsumeIntegralInRange(0, 3) > 0;
  constexpr std::uint32_t kAll = sizeof(Request);
  const auto length = plain ? kAll : input.ConsumeIntegralInRange<std::uint32_t>(0, kAll + 8);
  const auto cut = plain ? kAll : input.ConsumeIntegralInRange<std::uint32_t>(0, length);
  const auto room =
      plain ? std::uint32_t{sizeof(Response)} : input.ConsumeIntegralInRange<std::uint32_t>(0, 32);
  const GuestAddr out = harness.arena().Allocate(kAll + 8);
  Require(SharedMemory().Write(out, AsBytes(request)).has_value());
  const GuestAddr in = harness.arena().Allocate(32);
  Require(SharedMemory().Fill(in, 32, std::byte{0xff}).has_value());
  auto& queue = harness.queue(devices::mem::kRequestQueue);
  const std::uint16_t head = queue.AddIndirect(std::vector<test::DriverBuffer>{
      {out, cut, false}, {out + cut, length - cut, false}, {in, room, true}});
  harness.Notify(devices::mem::kRequestQueue);
  const auto used = queue.PopUsed();
  Require(used.has_value() && used->id == head);
  if (room < sizeof(Response)) {
    // Nothing was done that the driver was not told of.
    Require(used->len == 0);
    return;
  }
  Require(used->len == sizeof(Response));
  Response response{};
  Require(SharedMemory().Read(in, std::as_writable_bytes(std::span(&response, 1))).has_value());
  const Response expected =
      length < kAll ? Response{.type = devices::mem::kResponseError} : model.Serve(request);
  Require(response.type == expected.type && response.state == expected.state);
}

void Run(FuzzedDataProvider& input, EventLoop& loop) {
  const auto take_size = [&] {
    return input.ConsumeIntegralInRange<std::uint64_t>(0, kBlocks) * kBlock;
  };
  std::size_t asked = 0;
  std::size_t answered = 0;
  const std::uint64_t requested = take_size();
  devices::MemDevice device({.base = kBase,
                             .region_bytes = kRegion,
                             .block_bytes = kBlock,
                             .requested_bytes = requested,
                             .plugged = {}});
  Model model(requested);
  {
    DeviceHarness harness(device, loop);
    for (int step = 0; step < kMaxSteps && input.remaining_bytes() > 0; ++step) {
      if (input.ConsumeIntegralInRange(0, 7) == 0) {
        const std::uint64_t size = take_size();
        model.SetRequested(size);
        ++asked;
        device.Resize(size, std::chrono::hours(1), [&answered](const auto&) { ++answered; });
        Require((answered == asked) == (model.plugged() == size));
      } else {
        Send(input, harness, model);
      }
      Check(device, model);
    }
    Require(!harness.failed());
  }
  // The driver is gone: nobody waits for it, and what it had is as it was.
  Require(asked == answered);
  Check(device, model);
}

}  // namespace
}  // namespace embervm::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::unique_ptr<embervm::EventLoop> loop = embervm::EventLoop::Create().value();
  FuzzedDataProvider input(data, size);
  embervm::fuzz::Run(input, *loop);
  return 0;
}
