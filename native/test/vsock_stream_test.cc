// virtio-vsock under load: many streams with real data both ways, dying peers, and
// random packets.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <random>
#include <thread>
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

TEST_CASE("vsock: 50 streams, 1 MiB each way, every byte in its place") {
  constexpr std::size_t kStreams = 50;
  constexpr std::size_t kBytes = 1U << 20U;
  VsockFixture f;
  f.Listen(1024);
  std::deque<VsockFixture::Pair> pairs;
  for (std::uint32_t i = 0; i < kStreams; ++i) {
    // Half are opened by the guest, half by the host.
    pairs.push_back(i % 2 == 0 ? f.Accept(2000 + i, 1024) : f.Connect(3000 + i));
  }
  std::vector<std::vector<std::byte>> to_guest;
  std::vector<std::vector<std::byte>> to_host;
  for (std::size_t i = 0; i < kStreams; ++i) {
    to_guest.push_back(RandomBytes(kBytes, 2 * i));
    to_host.push_back(RandomBytes(kBytes, 2 * i + 1));
  }

  // The host: one thread that writes and reads all sockets as they become ready.
  std::vector<std::vector<std::byte>> received(kStreams);
  std::thread host([&] {
    std::vector<std::size_t> sent(kStreams);
    std::vector<std::byte> chunk(65536);
    std::size_t open = kStreams;
    std::vector<pollfd> polls(kStreams);
    for (std::size_t i = 0; i < kStreams; ++i) {
      polls[i] = {.fd = pairs[i].host.get(), .events = POLLIN | POLLOUT, .revents = 0};
    }
    while (open > 0 && ::poll(polls.data(), polls.size(), 60000) > 0) {
      for (std::size_t i = 0; i < kStreams; ++i) {
        if ((polls[i].revents & POLLOUT) != 0) {
          const auto rest = std::span(to_guest[i]).subspan(sent[i]);
          const ssize_t done = ::send(polls[i].fd, rest.data(), rest.size(), MSG_NOSIGNAL);
          if (done > 0) sent[i] += static_cast<std::size_t>(done);
          if (sent[i] == kBytes) {
            ::shutdown(polls[i].fd, SHUT_WR);
            polls[i].events = POLLIN;
          }
        }
        if ((polls[i].revents & (POLLIN | POLLHUP)) != 0) {
          const ssize_t got = ::recv(polls[i].fd, chunk.data(), chunk.size(), 0);
          if (got > 0) {
            received[i].insert(received[i].end(), chunk.begin(), chunk.begin() + got);
          } else if (got == 0) {
            polls[i].fd = -1;
            --open;
          }
        }
      }
    }
  });

  // The guest: takes what comes, sends as credit allows, closes when both are done.
  std::map<std::pair<std::uint32_t, std::uint32_t>, std::size_t> index;
  for (std::size_t i = 0; i < kStreams; ++i) {
    index[{pairs[i].stream.guest_port(), pairs[i].stream.host_port()}] = i;
  }
  std::vector<std::size_t> sent(kStreams);
  std::vector<bool> closed(kStreams);
  const bool done = Eventually([&] {
    while (const auto packet = f.guest.Poll()) {
      const auto& header = packet->header;
      pairs[index.at({header.dst_port, header.src_port})].stream.OnPacket(*packet);
    }
    bool all = true;
    for (std::size_t i = 0; i < kStreams; ++i) {
      VsockGuestStream& stream = pairs[i].stream;
      sent[i] += stream.SendSome(std::span(to_host[i]).subspan(sent[i]));
      const bool finished = sent[i] == kBytes && (stream.shutdown & vsock::kShutdownSend) != 0;
      if (finished && !closed[i]) {
        closed[i] = true;
        stream.Send(vsock::kOpShutdown, vsock::kShutdownBoth);
      }
      all = all && stream.reset;
    }
    return all;
  });
  CHECK(done);
  host.join();
  for (std::size_t i = 0; i < kStreams; ++i) {
    CHECK(pairs[i].stream.input == to_guest[i]);
    CHECK(received[i] == to_host[i]);
  }
  CHECK(f.device.counters().connections == 0);
  CHECK(f.device.counters().tx_bytes == kStreams * kBytes);
  CHECK(f.device.counters().rx_bytes == kStreams * kBytes);
}

TEST_CASE("vsock: 100 peers that die while the guest writes raise no signal") {
  VsockFixture f;
  f.Listen(1024);
  const auto data = RandomBytes(4096, 9);
  for (std::uint32_t round = 0; round < 100; ++round) {
    auto [host, stream] = f.Accept(round, 1024);
    stream.SendSome(data);
    host.Reset();
    // Until the guest learns that nobody takes it any more.
    CHECK(Eventually([&] {
      while (const auto packet = f.guest.Poll()) {
        if (packet->header.dst_port == stream.guest_port()) stream.OnPacket(*packet);
      }
      if ((stream.shutdown & vsock::kShutdownReceive) != 0) return true;
      stream.SendSome(data);
      return false;
    }));
    stream.Send(vsock::kOpReset);
  }
  CHECK(Eventually([&] { return f.device.counters().connections == 0; }));
}

TEST_CASE("vsock: handlers may call back into the muxer") {
  VsockFixture f;
  std::atomic<int> refused = 0;
  // Each failure starts another attempt, from within the handler.
  const std::function<void(int)> attempt = [&](int left) {
    f.device.muxer().Connect(7, [&, left](const Result<UniqueFd>& result) {
      if (result.has_value()) return;
      ++refused;
      if (left > 0) attempt(left - 1);
    });
  };
  f.thread.Call([&] {
    attempt(4);
    f.device.muxer().Listen(9, [&](std::uint32_t, UniqueFd) {
      f.device.muxer().Unlisten(9);
      f.device.muxer().Listen(10, [](std::uint32_t, UniqueFd) {});
    });
  });
  f.guest.Send(VsockGuest::MakeHeader(vsock::kOpRequest, 1, 9));
  for (int i = 0; i < 5;) {
    const auto packet = f.guest.Receive();
    if (packet.header.op != vsock::kOpRequest) continue;
    f.guest.Send(VsockGuest::MakeHeader(vsock::kOpReset, 7, packet.header.src_port));
    ++i;
  }
  CHECK(Eventually([&] { return refused == 5; }));
  f.guest.Send(VsockGuest::MakeHeader(vsock::kOpRequest, 2, 9));
  CHECK(Eventually([&] {
    const auto packet = f.guest.Poll();
    return packet && packet->header.op == vsock::kOpReset && packet->header.dst_port == 2;
  }));
}

TEST_CASE("vsock: random packets, random hosts") {
  const int descriptors = CountDescriptors();
  {
    VsockFixture f({.connect_timeout = std::chrono::seconds(2),
                    .close_timeout = std::chrono::milliseconds(5),
                    .max_connections = 20});
    f.Listen(3);
    std::mt19937_64 random(99);
    std::vector<UniqueFd> hosts;
    const auto data = RandomBytes(4096, 1);
    for (int i = 0; i < 6000; ++i) {
      vsock::Header header = VsockGuest::MakeHeader(
          static_cast<std::uint16_t>(random() % 9), static_cast<std::uint32_t>(random() % 8),
          random() % 2 == 0 ? 3 : static_cast<std::uint32_t>((1U << 30U) + random() % 40));
      header.flags = static_cast<std::uint32_t>(random() % 5);
      header.buf_alloc = static_cast<std::uint32_t>(random() % 3 == 0 ? random() : 65536);
      header.fwd_cnt = static_cast<std::uint32_t>(random() % 3 == 0 ? random() : 0);
      if (random() % 20 == 0) header.type = 2;
      const auto payload = std::span(data).first(random() % 3 == 0 ? random() % 4096 : 0);
      header.len = static_cast<std::uint32_t>(random() % 20 == 0 ? random() : payload.size());
      f.guest.SendRaw(header, payload);
      while (f.guest.Poll()) {
      }
      if (random() % 10 == 0) f.StartConnect(static_cast<std::uint32_t>(random() % 8));
      const std::lock_guard lock(f.mutex);
      for (auto& outcome : f.outcomes) {
        if (outcome.has_value()) hosts.push_back(std::move(outcome).value());
      }
      f.outcomes.clear();
      for (auto& [port, stream] : f.accepted) hosts.push_back(std::move(stream));
      f.accepted.clear();
      for (UniqueFd& host : hosts) {
        std::array<std::byte, 3000> buffer{};
        if (random() % 2 == 0) ::send(host.get(), buffer.data(), buffer.size(), MSG_NOSIGNAL);
        if (random() % 3 == 0) {
          static_cast<void>(::recv(host.get(), buffer.data(), buffer.size(), 0));
        }
        if (random() % 16 == 0) host.Reset();
      }
      std::erase_if(hosts, [](const UniqueFd& host) { return !host.valid(); });
      CHECK(f.device.counters().connections <= 20);
    }
    CHECK(f.guest.driver().failures().empty());
    hosts.clear();
    f.guest.Start();
    {
      const std::lock_guard lock(f.mutex);
      f.outcomes.clear();
    }
    f.Connect();
  }
  CHECK(CountDescriptors() == descriptors);
}

}  // namespace
}  // namespace embervm::devices
