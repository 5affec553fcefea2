// virtio-vsock against a guest: connections, half-closes, credit, resets, limits.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "test/support/vsock_fixture.h"

namespace embervm::devices {
namespace {

using test::CountDescriptors;
using test::Eventually;
using test::RandomBytes;
using test::ReceiveEnd;
using test::ReceiveUpTo;
using test::SendAll;
using test::VsockFixture;
using test::VsockGuest;
using test::VsockGuestStream;
using test::VsockPacket;

std::span<const std::byte> Bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

std::string Text(const std::vector<std::byte>& bytes) {
  std::string text;
  for (const std::byte byte : bytes) text.push_back(static_cast<char>(byte));
  return text;
}

TEST_CASE("vsock: configuration") {
  VsockFixture f;
  CHECK(f.guest.driver().Read32(virtio::kRegDeviceId) == 19);
  CHECK(f.guest.driver().Read32(virtio::kRegConfig) == VsockGuest::kCid);
}

TEST_CASE("vsock: the host connects, both talk, the guest closes") {
  VsockFixture f;
  f.StartConnect(1024);
  const VsockPacket request = f.guest.Expect(vsock::kOpRequest);
  CHECK(+request.header.src_port == 1U << 30U);
  CHECK(+request.header.dst_port == 1024);
  CHECK(+request.header.type == vsock::kTypeStream);
  CHECK(+request.header.buf_alloc >= 256 * 1024);
  VsockGuestStream stream(f.guest, 1024, request.header.src_port);
  stream.OnPacket(request);
  stream.Send(vsock::kOpResponse);
  Result<UniqueFd> outcome = f.WaitOutcome();
  REQUIRE(outcome.has_value());
  const UniqueFd host = std::move(outcome).value();
  CHECK((::fcntl(host.get(), F_GETFD) & FD_CLOEXEC) != 0);
  CHECK((::fcntl(host.get(), F_GETFL) & O_NONBLOCK) != 0);

  REQUIRE(SendAll(host.get(), Bytes("ping")));
  const VsockPacket data = f.guest.Expect(vsock::kOpData);
  CHECK(Text(data.payload) == "ping");
  stream.Send(vsock::kOpData, 0, Bytes("pong"));
  CHECK(Text(ReceiveUpTo(host.get(), 4)) == "pong");
  CHECK(f.device.counters().connections == 1);
  CHECK(f.device.counters().tx_bytes == 4);
  CHECK(f.device.counters().rx_bytes == 4);

  stream.Send(vsock::kOpShutdown, vsock::kShutdownBoth);
  f.guest.Expect(vsock::kOpReset);
  CHECK(ReceiveEnd(host.get()) == 0);
  CHECK(f.device.counters().connections == 0);
}

TEST_CASE("vsock: connections that do not come about") {
  VsockFixture f({.connect_timeout = std::chrono::milliseconds(50), .max_connections = 2});
  const auto code = [](const Result<UniqueFd>& outcome) {
    return outcome.has_value() ? std::string() : outcome.error().code();
  };
  SUBCASE("refused") {
    f.StartConnect(7);
    const VsockPacket request = f.guest.Expect(vsock::kOpRequest);
    f.guest.Send(VsockGuest::MakeHeader(vsock::kOpReset, 7, request.header.src_port));
    CHECK(code(f.WaitOutcome()) == "ERR_VSOCK_REFUSED");
    CHECK(f.guest.Quiet());
  }
  SUBCASE("answered with garbage") {
    f.StartConnect(7);
    const VsockPacket request = f.guest.Expect(vsock::kOpRequest);
    f.guest.Send(VsockGuest::MakeHeader(vsock::kOpData, 7, request.header.src_port), Bytes("x"));
    CHECK(code(f.WaitOutcome()) == "ERR_VSOCK_RESET");
    f.guest.Expect(vsock::kOpReset);
  }
  SUBCASE("never answered") {
    f.StartConnect(7);
    const VsockPacket request = f.guest.Expect(vsock::kOpRequest);
    CHECK(code(f.WaitOutcome()) == "ERR_VSOCK_TIMEOUT");
    CHECK(+f.guest.Expect(vsock::kOpReset).header.src_port == request.header.src_port);
    // An answer that comes late is for nobody.
    f.guest.Send(VsockGuest::MakeHeader(vsock::kOpResponse, 7, request.header.src_port));
    f.guest.Expect(vsock::kOpReset);
  }
  SUBCASE("no driver") {
    f.guest.driver().Write32(virtio::kRegStatus, 0);
    f.StartConnect(7);
    CHECK(code(f.WaitOutcome()) == "ERR_VSOCK_REFUSED");
  }
  SUBCASE("the driver resets the device meanwhile") {
    f.StartConnect(7);
    f.guest.driver().Write32(virtio::kRegStatus, 0);
    CHECK(code(f.WaitOutcome()) == "ERR_VSOCK_RESET");
  }
  SUBCASE("too many") {
    f.StartConnect(7);
    f.StartConnect(8);
    f.StartConnect(9);
    CHECK(code(f.WaitOutcome()) == "ERR_VSOCK_LIMIT");
  }
  CHECK(Eventually([&] {
    const std::lock_guard lock(f.mutex);
    return f.device.counters().connections <= 2;
  }));
}

TEST_CASE("vsock: the guest connects to ports with and without a listener") {
  VsockFixture f;
  f.Listen(1024);
  auto [host, stream] = f.Accept(555, 1024);
  stream.Send(vsock::kOpData, 0, Bytes("hi"));
  CHECK(Text(ReceiveUpTo(host.get(), 2)) == "hi");

  f.guest.Send(VsockGuest::MakeHeader(vsock::kOpRequest, 556, 1025));
  const VsockPacket reset = f.guest.Expect(vsock::kOpReset);
  CHECK(+reset.header.src_port == 1025);
  CHECK(+reset.header.dst_port == 556);

  f.thread.Call([&] { f.device.muxer().Unlisten(1024); });
  f.guest.Send(VsockGuest::MakeHeader(vsock::kOpRequest, 557, 1024));
  f.guest.Expect(vsock::kOpReset);
  // The stream that is open does not notice.
  REQUIRE(SendAll(host.get(), Bytes("still here")));
  CHECK(Text(f.guest.Expect(vsock::kOpData).payload) == "still here");
}

TEST_CASE("vsock: what the host writes before the answer is delivered after it") {
  VsockFixture f;
  f.Listen(1024);
  f.guest.set_refill(false);
  f.guest.Start(/*with_buffers=*/false);
  f.guest.Send(VsockGuest::MakeHeader(vsock::kOpRequest, 5, 1024));
  REQUIRE(Eventually([&] {
    const std::lock_guard lock(f.mutex);
    return !f.accepted.empty();
  }));
  REQUIRE(SendAll(f.accepted.front().second.get(), Bytes("early")));
  f.guest.GiveBuffers(2);
  f.guest.Expect(vsock::kOpResponse);
  CHECK(Text(f.guest.Expect(vsock::kOpData).payload) == "early");
}

TEST_CASE("vsock: the guest half-closes") {
  VsockFixture f;
  auto [host, stream] = f.Connect();
  SUBCASE("its sending side") {
    stream.Send(vsock::kOpData, 0, Bytes("last words"));
    stream.Send(vsock::kOpShutdown, vsock::kShutdownSend);
    CHECK(Text(ReceiveUpTo(host.get(), 100)) == "last words");
    CHECK(ReceiveEnd(host.get()) == 0);
    REQUIRE(SendAll(host.get(), Bytes("answer")));
    CHECK(Text(f.guest.Expect(vsock::kOpData).payload) == "answer");
    // Data after the end is garbage.
    stream.Send(vsock::kOpData, 0, Bytes("more"));
    f.guest.Expect(vsock::kOpReset);
  }
  SUBCASE("its receiving side") {
    stream.Send(vsock::kOpShutdown, vsock::kShutdownReceive);
    CHECK(Eventually([&] { return !SendAll(host.get(), Bytes("x")); }));
    stream.Send(vsock::kOpData, 0, Bytes("still sending"));
    CHECK(Text(ReceiveUpTo(host.get(), 13)) == "still sending");
    stream.Send(vsock::kOpShutdown, vsock::kShutdownSend);
    CHECK(ReceiveEnd(host.get()) == 0);
    CHECK(+f.guest.Expect(vsock::kOpReset).header.op == vsock::kOpReset);
  }
}

TEST_CASE("vsock: the host half-closes, then closes") {
  VsockFixture f;
  auto [host, stream] = f.Connect();
  REQUIRE(SendAll(host.get(), Bytes("request")));
  REQUIRE(::shutdown(host.get(), SHUT_WR) == 0);
  CHECK(Text(f.guest.Expect(vsock::kOpData).payload) == "request");
  CHECK(+f.guest.Expect(vsock::kOpShutdown).header.flags == vsock::kShutdownSend);
  stream.Send(vsock::kOpData, 0, Bytes("response"));
  CHECK(Text(ReceiveUpTo(host.get(), 8)) == "response");
  CHECK(f.guest.Quiet());
  host.Reset();
  CHECK(+f.guest.Expect(vsock::kOpShutdown).header.flags == vsock::kShutdownBoth);
  stream.Send(vsock::kOpReset);
  CHECK(Eventually([&] { return f.device.counters().connections == 0; }));
  CHECK(f.guest.Quiet());
}

TEST_CASE("vsock: the host closes at once: one packet says both") {
  VsockFixture f;
  auto [host, stream] = f.Connect();
  REQUIRE(SendAll(host.get(), Bytes("bye")));
  host.Reset();
  CHECK(Text(f.guest.Expect(vsock::kOpData).payload) == "bye");
  CHECK(+f.guest.Expect(vsock::kOpShutdown).header.flags == vsock::kShutdownBoth);
  CHECK(f.guest.Quiet());
  stream.Send(vsock::kOpShutdown, vsock::kShutdownBoth);
  f.guest.Expect(vsock::kOpReset);
  CHECK(f.device.counters().connections == 0);
}

TEST_CASE("vsock: a guest that never answers a close is reset after a while") {
  VsockFixture f({.close_timeout = std::chrono::milliseconds(50)});
  auto [host, stream] = f.Connect();
  host.Reset();
  f.guest.Expect(vsock::kOpShutdown);
  f.guest.Expect(vsock::kOpReset);
  CHECK(f.device.counters().connections == 0);
}

TEST_CASE("vsock: the guest resets") {
  VsockFixture f;
  auto [host, stream] = f.Connect();
  stream.Send(vsock::kOpData, 0, Bytes("before"));
  stream.Send(vsock::kOpReset);
  CHECK(Text(ReceiveUpTo(host.get(), 6)) == "before");
  CHECK(ReceiveEnd(host.get()) == 0);
  CHECK_FALSE(SendAll(host.get(), Bytes("x")));
  CHECK(f.guest.Quiet());
}

TEST_CASE("vsock: an orderly close hides what the host wrote in vain") {
  VsockFixture f;
  f.guest.set_refill(false);
  f.guest.Start(/*with_buffers=*/false);
  f.guest.GiveBuffers(1);
  auto [host, stream] = f.Connect();
  // No buffer is left: this stays in the socket.
  REQUIRE(SendAll(host.get(), Bytes("unread")));
  stream.Send(vsock::kOpData, 0, Bytes("result"));
  stream.Send(vsock::kOpShutdown, vsock::kShutdownBoth);
  CHECK(Text(ReceiveUpTo(host.get(), 6)) == "result");
  CHECK(ReceiveEnd(host.get()) == 0);  // And not ECONNRESET.
}

TEST_CASE("vsock: nothing is lost when the guest closes before a slow host has read") {
  VsockFixture f;
  auto [host, stream] = f.Connect();
  const auto data = RandomBytes(400 * 1024, 1);
  std::size_t sent = 0;
  // More than the socket holds, and all that the credit allows.
  for (int idle = 0; sent < data.size() && idle < 50;) {
    while (const auto packet = f.guest.Poll()) stream.OnPacket(*packet);
    const std::size_t took = stream.SendSome(std::span(data).subspan(sent));
    sent += took;
    idle = took == 0 ? idle + 1 : 0;
    if (took == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  CHECK(sent > 256 * 1024);
  SUBCASE("by shutting down") {
    stream.Send(vsock::kOpShutdown, vsock::kShutdownBoth);
    f.guest.ExpectAfterCredit(vsock::kOpReset);
  }
  SUBCASE("by a reset") { stream.Send(vsock::kOpReset); }
  SUBCASE("by resetting the device") { f.guest.driver().Write32(virtio::kRegStatus, 0); }
  CHECK(Eventually([&] { return f.device.counters().connections == 0; }));
  CHECK(f.CpuTimeDuring(std::chrono::milliseconds(100)) < std::chrono::milliseconds(30));
  const auto got = ReceiveUpTo(host.get(), data.size());
  CHECK(got.size() == sent);
  CHECK(std::ranges::equal(got, std::span(data).first(sent)));
  CHECK(ReceiveEnd(host.get()) == 0);
}

TEST_CASE("vsock: the host sends no more than the guest's credit") {
  VsockFixture f;
  f.StartConnect(1024);
  const VsockPacket request = f.guest.Expect(vsock::kOpRequest);
  const auto header = [&](std::uint16_t op, std::uint32_t buf_alloc, std::uint32_t fwd_cnt) {
    vsock::Header made = VsockGuest::MakeHeader(op, 1024, request.header.src_port);
    made.buf_alloc = buf_alloc;
    made.fwd_cnt = fwd_cnt;
    return made;
  };
  f.guest.Send(header(vsock::kOpResponse, 10000, 0));
  const UniqueFd host = f.WaitOutcome().value();
  const auto data = RandomBytes(30000, 2);
  REQUIRE(SendAll(host.get(), data));
  std::vector<std::byte> got;
  const auto collect = [&](std::size_t until) {
    while (got.size() < until) {
      const VsockPacket packet = f.guest.Expect(vsock::kOpData);
      got.insert(got.end(), packet.payload.begin(), packet.payload.end());
    }
    CHECK(got.size() == until);
  };
  collect(10000);
  f.guest.Expect(vsock::kOpCreditRequest);
  CHECK(f.guest.Quiet());
  CHECK(f.CpuTimeDuring(std::chrono::milliseconds(100)) < std::chrono::milliseconds(30));
  // A guest that has read what was never sent gets nothing for it.
  f.guest.Send(header(vsock::kOpCreditUpdate, 10000, 10001));
  CHECK(f.guest.Quiet());
  f.guest.Send(header(vsock::kOpCreditUpdate, 5000, 0));
  CHECK(f.guest.Quiet());
  f.guest.Send(header(vsock::kOpCreditUpdate, 10000, 10000));
  collect(20000);
  f.guest.Expect(vsock::kOpCreditRequest);
  f.guest.Send(header(vsock::kOpCreditUpdate, 20000, 20000));
  collect(30000);
  CHECK(got == data);
}

TEST_CASE("vsock: a guest that overruns its credit is reset") {
  VsockFixture f;
  auto [host, stream] = f.Connect();
  const auto data = RandomBytes(65536, 3);
  bool was_reset = false;
  // The host reads nothing: socket and buffer fill up; we ignore the credit.
  for (int i = 0; i < 64 && !was_reset; ++i) {
    f.guest.Send(VsockGuest::MakeHeader(vsock::kOpData, 1024, stream.host_port()), data);
    f.guest.driver().WaitUsed(vsock::kTxQueue);
    // WaitUsed took the element that Send would have recycled.
    while (const auto packet = f.guest.Poll()) {
      if (packet->header.op == vsock::kOpReset) was_reset = true;
    }
  }
  CHECK(was_reset);
  CHECK(f.device.counters().connections == 0);
}

// The guest keeps no more in flight than its own buffer holds, and we allow 1 MiB at most.
void CheckCreditOf(std::uint32_t guest_buffer, std::uint32_t window) {
  CAPTURE(guest_buffer);
  VsockFixture f;
  auto [host, stream] = f.Connect(1024, guest_buffer);
  const auto data = RandomBytes(4096, 4);
  unsigned updates = 0;
  constexpr unsigned kPackets = 2000;
  for (unsigned i = 0; i < kPackets; ++i) {
    REQUIRE(Eventually([&] {
      while (const auto packet = f.guest.Poll()) {
        if (packet->header.op == vsock::kOpCreditUpdate) ++updates;
        stream.OnPacket(*packet);
      }
      return stream.SendSome(data) == data.size();
    }));
    REQUIRE(ReceiveUpTo(host.get(), data.size()) == data);
  }
  CHECK(updates > 0);
  // Each for a quarter of what may be in flight, or more.
  CHECK(updates <= kPackets * 4096 / (std::min(guest_buffer, window) / 4));
  CHECK(stream.peer_buf_alloc() == window);

  stream.Send(vsock::kOpCreditRequest);
  VsockPacket answer = f.guest.Expect(vsock::kOpCreditUpdate);
  // One that was under way may come before the answer.
  if (answer.header.fwd_cnt != kPackets * 4096U) answer = f.guest.Expect(vsock::kOpCreditUpdate);
  CHECK(+answer.header.fwd_cnt == kPackets * 4096U);
}

TEST_CASE("vsock: the guest gets its credit back in time, and not in crumbs") {
  constexpr std::uint32_t kKib = 1024;
  CheckCreditOf(16 * kKib, 256 * kKib);
  CheckCreditOf(256 * kKib, 256 * kKib);
  CheckCreditOf(1024 * kKib, 1024 * kKib);
  CheckCreditOf(4096 * kKib, 1024 * kKib);
}

TEST_CASE("vsock: packets that are garbage") {
  VsockFixture f;
  auto [host, stream] = f.Connect();
  vsock::Header header = VsockGuest::MakeHeader(vsock::kOpData, 9, 9);
  SUBCASE("for another host are dropped") {
    header.dst_cid = 7;
    f.guest.Send(header);
    header.dst_cid = vsock::kHostCid;
    header.src_cid = 7;
    f.guest.Send(header);
    CHECK(f.guest.Quiet());
  }
  SUBCASE("for an unknown stream are reset, unless they are resets") {
    for (std::uint16_t op = 0; op < 10; ++op) {
      header.op = op;
      if (op == vsock::kOpReset) continue;
      f.guest.Send(header);
      CHECK(+f.guest.Expect(vsock::kOpReset).header.dst_port == 9);
    }
    header.op = vsock::kOpReset;
    f.guest.Send(header);
    CHECK(f.guest.Quiet());
  }
  SUBCASE("of another type are reset with that type") {
    header.type = 2;
    header.op = vsock::kOpRequest;
    f.guest.Send(header);
    CHECK(+f.guest.Expect(vsock::kOpReset).header.type == 2);
  }
  SUBCASE("that claim more than they carry end the stream") {
    header = VsockGuest::MakeHeader(vsock::kOpData, 1024, stream.host_port());
    header.len = 11;
    f.guest.SendRaw(header, Bytes("ten bytes."));
    f.guest.Expect(vsock::kOpReset);
    CHECK(ReceiveEnd(host.get()) == 0);
  }
  SUBCASE("with a length of 4 GiB end the stream") {
    header = VsockGuest::MakeHeader(vsock::kOpData, 1024, stream.host_port());
    header.len = UINT32_MAX;
    f.guest.SendRaw(header);
    f.guest.Expect(vsock::kOpReset);
  }
  SUBCASE("shorter than a header are ignored") {
    test::Driver& driver = f.guest.driver();
    driver.queue(vsock::kTxQueue).Add({{driver.arena().Allocate(44), 43, false}});
    driver.queue(vsock::kTxQueue).Add({{driver.arena().Allocate(44), 44, true}});
    driver.queue(vsock::kTxQueue).Add({{test::Driver::kMemoryBytes, 44, false}});
    driver.Kick(vsock::kTxQueue);
    for (int i = 0; i < 3; ++i) CHECK(driver.WaitUsed(vsock::kTxQueue).len == 0);
    CHECK(f.guest.Quiet());
  }
  SUBCASE("a second request for an open stream resets it") {
    stream.Send(vsock::kOpRequest);
    f.guest.Expect(vsock::kOpReset);
  }
  SUBCASE("unknown operations reset the stream") {
    stream.Send(99);
    f.guest.Expect(vsock::kOpReset);
  }
  SUBCASE("empty data is ignored") {
    stream.Send(vsock::kOpData);
    CHECK(f.guest.Quiet());
    CHECK(f.device.counters().connections == 1);
  }
  CHECK(f.guest.driver().failures().empty());
}

TEST_CASE("vsock: useless receive buffers come back empty") {
  VsockFixture f;
  f.guest.Start(/*with_buffers=*/false);
  test::Driver& driver = f.guest.driver();
  driver.queue(vsock::kRxQueue).Add({{driver.arena().Allocate(44), 44, true}});
  driver.queue(vsock::kRxQueue).Add({{driver.arena().Allocate(44), 44, false}});
  driver.queue(vsock::kRxQueue).Add({{test::Driver::kMemoryBytes, 4096, true}});
  f.guest.Send(VsockGuest::MakeHeader(vsock::kOpRequest, 9, 9));
  for (int i = 0; i < 3; ++i) CHECK(driver.WaitUsed(vsock::kRxQueue).len == 0);
  const GuestAddr buffer = driver.arena().Allocate(64);
  driver.queue(vsock::kRxQueue).Add({{buffer, 45, true}});
  driver.KickIfAsked(vsock::kRxQueue);
  CHECK(driver.WaitUsed(vsock::kRxQueue).len == 44);
}

TEST_CASE("vsock: an idle device sleeps, whatever its streams wait for") {
  VsockFixture f;
  SUBCASE("a guest without receive buffers") {
    f.guest.set_refill(false);
    f.guest.Start(/*with_buffers=*/false);
    f.guest.GiveBuffers(1);
    auto [host, stream] = f.Connect();
    REQUIRE(SendAll(host.get(), Bytes("waiting")));
    host.Reset();
    CHECK(f.CpuTimeDuring(std::chrono::milliseconds(200)) < std::chrono::milliseconds(40));
  }
  SUBCASE("a guest without credit, and a host that has closed") {
    f.StartConnect(1024);
    const VsockPacket request = f.guest.Expect(vsock::kOpRequest);
    vsock::Header response =
        VsockGuest::MakeHeader(vsock::kOpResponse, 1024, request.header.src_port);
    response.buf_alloc = 0;
    f.guest.Send(response);
    UniqueFd host = f.WaitOutcome().value();
    REQUIRE(SendAll(host.get(), Bytes("waiting")));
    host.Reset();
    CHECK(f.CpuTimeDuring(std::chrono::milliseconds(200)) < std::chrono::milliseconds(40));
    response.op = vsock::kOpCreditUpdate;
    response.buf_alloc = 100;
    f.guest.Send(response);
    CHECK(Text(f.guest.Expect(vsock::kOpData).payload) == "waiting");
    CHECK(+f.guest.Expect(vsock::kOpShutdown).header.flags == vsock::kShutdownBoth);
  }
  SUBCASE("a host that has half-closed") {
    auto [host, stream] = f.Connect();
    REQUIRE(::shutdown(host.get(), SHUT_WR) == 0);
    f.guest.Expect(vsock::kOpShutdown);
    CHECK(f.CpuTimeDuring(std::chrono::milliseconds(200)) < std::chrono::milliseconds(40));
  }
  SUBCASE("a guest that has half-closed both ways round, and a host that has closed") {
    auto [host, stream] = f.Connect();
    stream.Send(vsock::kOpShutdown, vsock::kShutdownReceive);
    host.Reset();
    CHECK(+f.guest.Expect(vsock::kOpShutdown).header.flags == vsock::kShutdownReceive);
    CHECK(f.CpuTimeDuring(std::chrono::milliseconds(200)) < std::chrono::milliseconds(40));
  }
}

TEST_CASE("vsock: a busy stream leaves others their turn") {
  VsockFixture f;
  f.guest.set_refill(false);
  f.guest.Start(/*with_buffers=*/false);
  f.guest.GiveBuffers(2);
  auto [busy, busy_stream] = f.Connect(1);
  auto [calm, calm_stream] = f.Connect(2);
  // All buffers are used: both wait, the busy one first.
  REQUIRE(SendAll(busy.get(), RandomBytes(100 * 1024, 5)));
  f.thread.Call([] {});
  REQUIRE(SendAll(calm.get(), Bytes("me too")));
  f.thread.Call([] {});
  f.guest.GiveBuffers(10);
  const std::uint32_t first = f.guest.Expect(vsock::kOpData).header.dst_port;
  const std::uint32_t second = f.guest.Expect(vsock::kOpData).header.dst_port;
  CHECK(first + second == 3);
}

TEST_CASE("vsock: a batch takes one interrupt for both queues") {
  VsockFixture f;
  auto [host, stream] = f.Connect();
  test::Driver& driver = f.guest.driver();
  driver.queue(vsock::kRxQueue).EnableInterrupts();
  REQUIRE(f.guest.CanSend());
  driver.queue(vsock::kTxQueue).EnableInterrupts();
  const std::uint64_t before = driver.transport().interrupts();
  f.thread.WhileBlocked([&] {
    REQUIRE(SendAll(host.get(), RandomBytes(65536, 7)));
    for (int i = 0; i < 10; ++i) stream.Send(vsock::kOpCreditRequest);
  });
  for (std::size_t got = 0; got < 65536;) got += f.guest.Receive().header.len;
  // The device may see the kick and the socket on two turns of its loop.
  CHECK(driver.transport().interrupts() - before <= 2);
}

TEST_CASE("vsock: as many streams as allowed, then no more; all go away again") {
  const int descriptors = CountDescriptors();
  {
    VsockFixture f;
    f.Listen(1024);
    std::vector<UniqueFd> hosts;
    for (std::uint32_t port = 0; port < 1023; ++port) {
      hosts.push_back(f.Accept(port, 1024).host);
    }
    CHECK(f.device.counters().connections == 1023);
    f.guest.Send(VsockGuest::MakeHeader(vsock::kOpRequest, 5000, 1024));
    f.guest.Expect(vsock::kOpReset);
    f.StartConnect(1);
    CHECK(f.WaitOutcome().error().code() == "ERR_VSOCK_LIMIT");
    f.guest.Send(VsockGuest::MakeHeader(vsock::kOpReset, 17, 1024));
    hosts.push_back(f.Accept(5000, 1024).host);
    REQUIRE(SendAll(hosts.back().get(), Bytes("x")));
    CHECK(+f.guest.Expect(vsock::kOpData).header.dst_port == 5000);
    f.guest.driver().Write32(virtio::kRegStatus, 0);
    CHECK(f.device.counters().connections == 0);
    for (const UniqueFd& host : hosts) CHECK(ReceiveEnd(host.get()) == 0);
  }
  CHECK(CountDescriptors() == descriptors);
}

TEST_CASE("vsock: a transport reset drops all streams and tells the guest") {
  VsockFixture f;
  auto [host, stream] = f.Connect();
  // Without a buffer for the event: just the streams.
  f.thread.Call([&] { f.device.AfterRestore(); });
  CHECK(ReceiveEnd(host.get()) == 0);
  auto [second, second_stream] = f.Connect();
  test::Driver& driver = f.guest.driver();
  const GuestAddr event = driver.arena().Allocate(4);
  REQUIRE(driver.memory().Fill(event, 4, std::byte{0xff}).has_value());
  driver.queue(vsock::kEventQueue).Add({{event, 4, true}});
  driver.KickIfAsked(vsock::kEventQueue);
  f.thread.Call([&] { f.device.AfterRestore(); });
  CHECK(driver.WaitUsed(vsock::kEventQueue).len == 4);
  CHECK(driver.Get(event, 4) == std::vector<std::byte>(4));
  CHECK(ReceiveEnd(second.get()) == 0);
  CHECK(f.device.counters().connections == 0);

  // The driver would close a new stream with the old ones: it gets none before it has
  // given the event's buffer back, and a spurious notification does not count.
  f.StartConnect(7);
  driver.Kick(vsock::kEventQueue);
  driver.Kick(vsock::kRxQueue);
  f.thread.Call([] {});
  CHECK(!driver.queue(vsock::kRxQueue).PopUsed().has_value());
  driver.queue(vsock::kEventQueue).Add({{event, 4, true}});
  driver.KickIfAsked(vsock::kEventQueue);
  CHECK(f.guest.Expect(vsock::kOpRequest).header.dst_port == 7);
}

TEST_CASE("vsock: a broken ring closes every stream and spares the process") {
  VsockFixture f;
  auto [host, stream] = f.Connect();
  f.StartConnect(2);
  f.guest.Expect(vsock::kOpRequest);
  f.guest.driver().queue(vsock::kTxQueue).SetAvailIndex(0x5000);
  f.guest.driver().Kick(vsock::kTxQueue);
  CHECK(ReceiveEnd(host.get()) == 0);
  CHECK(f.WaitOutcome().error().code() == "ERR_VSOCK_RESET");
  CHECK(f.guest.driver().failures().size() == 1);
  f.guest.Start();
  f.Connect();
}

}  // namespace
}  // namespace embervm::devices
