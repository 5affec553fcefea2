// The ttrpc rules: stream ids, limits, unknown and malformed input. A server that
// answers GetInfo afterwards has survived.
#include <doctest/doctest.h>
#include <sys/socket.h>
#include <sys/utsname.h>

#include <memory>
#include <random>

#include "agent.pb-c.h"
#include "client.h"

namespace embervm::agent_test {
namespace {

constexpr int kInvalidArgument = 3;
constexpr int kResourceExhausted = 8;
constexpr int kUnimplemented = 12;
constexpr size_t kMaxData = size_t{4} << 20;

void CheckAlive(Client& client) { CHECK(client.Call(kAgentService, "GetInfo").code == 0); }

void CheckStatus(Client& client, const std::string& frame, uint32_t stream, int code) {
  REQUIRE(client.Send(frame));
  const std::optional<Frame> answer = client.Receive();
  REQUIRE(answer.has_value());
  CHECK(answer->stream == stream);
  CHECK(DecodeResponse(*answer).code == code);
}

std::string InfoRequest() { return EncodeRequest(kAgentService, "GetInfo", {}); }

TEST_CASE("GetInfo names the version and the kernel") {
  AgentProcess agent;
  Client control(agent.AcceptControl());
  const Answer answer = control.Call(kAgentService, "GetInfo");
  REQUIRE(answer.code == 0);
  auto* info = embervm__agent__v1__get_info_response__unpack(
      nullptr, answer.payload.size(), reinterpret_cast<const uint8_t*>(answer.payload.data()));
  REQUIRE(info != nullptr);
  utsname names{};
  uname(&names);
  CHECK(std::string(info->kernel_release) == names.release);
  CHECK(std::string(info->agent_version) == AGENT_VERSION);
  embervm__agent__v1__get_info_response__free_unpacked(info, nullptr);
}

TEST_CASE("unknown services and methods are unimplemented") {
  AgentProcess agent;
  Client client(agent.Connect());
  CHECK(client.Call("no.such.Service", "GetInfo").code == kUnimplemented);
  CHECK(client.Call(kAgentService, "NoSuchMethod").code == kUnimplemented);
  CHECK(client.Call("", "").code == kUnimplemented);
  const Answer answer = client.Call(std::string(100'000, 's'), "m");
  CHECK(answer.code == kUnimplemented);
  CHECK(answer.message.size() < 1024);
  CheckAlive(client);
}

TEST_CASE("stream ids are odd, increase, and are not used twice") {
  AgentProcess agent;
  Client client(agent.Connect());
  CheckStatus(client, EncodeFrame({2, kRequest, 0, InfoRequest()}), 2, kInvalidArgument);
  CheckStatus(client, EncodeFrame({0, kData, 0, "x"}), 0, kInvalidArgument);
  CheckStatus(client, EncodeFrame({101, kRequest, 0, InfoRequest()}), 101, 0);
  CheckStatus(client, EncodeFrame({101, kRequest, 0, InfoRequest()}), 101, kInvalidArgument);
  CheckStatus(client, EncodeFrame({99, kRequest, 0, InfoRequest()}), 99, kInvalidArgument);
  CheckStatus(client, EncodeFrame({0xffffffff, kRequest, 0, InfoRequest()}), 0xffffffff, 0);
}

TEST_CASE("data for a stream that is not open is refused") {
  AgentProcess agent;
  Client client(agent.Connect());
  CheckStatus(client, EncodeFrame({1, kData, 0, "x"}), 1, kInvalidArgument);
  CheckAlive(client);
  CheckStatus(client, EncodeFrame({1, kData, kRemoteClosed | kNoData, {}}), 1, kInvalidArgument);
}

TEST_CASE("a frame over 4 MiB is skipped and the connection lives") {
  AgentProcess agent;
  Client client(agent.Connect());
  CheckStatus(client, EncodeFrame({1, kRequest, 0, std::string(kMaxData + 1, 'x')}), 1,
              kResourceExhausted);
  // A refused frame does not use up its id.
  CheckStatus(client, EncodeFrame({1, kRequest, 0, InfoRequest()}), 1, 0);
  CheckStatus(client, EncodeFrame({3, kData, 0, std::string(3 * kMaxData, 'x')}), 3,
              kResourceExhausted);
  client.NextStream();
  client.NextStream();
  CheckAlive(client);
}

TEST_CASE("a frame of exactly 4 MiB is taken") {
  AgentProcess agent;
  Client client(agent.Connect());
  std::string request = InfoRequest();
  // An unknown field (number 1000, bytes) fills it up.
  std::string filler = "\xc2\x3e";
  const size_t content = kMaxData - request.size() - filler.size() - 4;
  for (size_t i = 0, rest = content; i < 4; i++, rest >>= 7) {
    filler.push_back(static_cast<char>((rest & 0x7f) | (i < 3 ? 0x80 : 0)));
  }
  request += filler + std::string(content, 'x');
  REQUIRE(request.size() == kMaxData);
  CheckStatus(client, EncodeFrame({1, kRequest, 0, request}), 1, 0);
  client.NextStream();
  CheckAlive(client);
}

TEST_CASE("malformed messages are invalid arguments") {
  AgentProcess agent;
  Client client(agent.Connect());
  CheckStatus(client, EncodeFrame({1, kRequest, 0, "\xff\xff\xff\xff"}), 1, kInvalidArgument);
  CheckStatus(client, EncodeFrame({3, kRequest, 0, std::string("\x0a\xff\xff\xff\x7f", 5)}), 3,
              kInvalidArgument);
  client.NextStream();
  client.NextStream();
  const std::string bad = "\x0a\x7fshort";
  for (const char* method : {"SetUpRoot", "PowerOff"}) {
    CHECK(client.Call(kAgentService, method, bad).code == kInvalidArgument);
  }
  for (const char* method : {"Exec", "Signal"}) {
    CHECK(client.Call(kProcessService, method, bad).code == kInvalidArgument);
  }
  CheckAlive(client);
}

TEST_CASE("types that a client does not send are ignored") {
  AgentProcess agent;
  Client client(agent.Connect());
  for (const uint8_t type : {0, 2, 4, 255}) {
    REQUIRE(client.Send(EncodeFrame({1, type, 0xff, "whatever"})));
  }
  CheckAlive(client);
}

TEST_CASE("frames may arrive one byte at a time") {
  AgentProcess agent;
  Client client(agent.Connect());
  const std::string frame = EncodeFrame({1, kRequest, 0, InfoRequest()});
  for (const char byte : frame) {
    REQUIRE(client.Send(std::string(1, byte)));
  }
  const std::optional<Frame> answer = client.Receive();
  REQUIRE(answer.has_value());
  CHECK(DecodeResponse(*answer).code == 0);
}

TEST_CASE("a client that sends and does not read is held back, and loses nothing") {
  AgentProcess agent;
  Client client(agent.Connect());
  constexpr uint32_t kCalls = 20'000;
  const size_t before = agent.ResidentKib();
  uint32_t sent = 0;
  uint32_t answered = 0;
  std::string bytes;
  for (uint32_t i = 0; i < kCalls; i++) {
    bytes += EncodeFrame({2 * i + 1, kRequest, 0, InfoRequest()});
  }
  while (sent < bytes.size()) {
    const ssize_t count =
        send(client.fd(), bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (count > 0) {
      sent += static_cast<uint32_t>(count);
      continue;
    }
    // Both directions are full: only now is anything read.
    const std::optional<Frame> frame = client.Receive();
    REQUIRE(frame.has_value());
    CHECK(frame->stream == 2 * answered++ + 1);
  }
  while (answered < kCalls) {
    const std::optional<Frame> frame = client.Receive();
    REQUIRE(frame.has_value());
    REQUIRE(frame->stream == 2 * answered++ + 1);
  }
  CHECK(agent.ResidentKib() < before + 8 * 1024);
}

TEST_CASE("a message that would decode into too much memory is refused") {
  AgentProcess agent;
  Client client(agent.Connect());
  std::string bomb;
  while (bomb.size() < kMaxData - 2) {
    // An empty metadata entry: two bytes that become a message.
    bomb += std::string("\x2a\x00", 2);
  }
  CheckStatus(client, EncodeFrame({1, kRequest, 0, bomb}), 1, kResourceExhausted);
  client.NextStream();
  CheckAlive(client);
}

TEST_CASE("announced frames hold memory only as they arrive, and within a budget") {
  AgentProcess agent;
  std::vector<std::unique_ptr<Client>> clients;
  const size_t before = agent.ResidentKib();
  for (int i = 0; i < 32; i++) {
    clients.push_back(std::make_unique<Client>(agent.Connect()));
    REQUIRE(clients.back()->Send(EncodeHeader(kMaxData, 1, kRequest, 0)));
  }
  Client control(agent.AcceptControl());
  CheckAlive(control);
  CHECK(agent.ResidentKib() < before + 16 * 1024);
  int refused = 0;
  for (const auto& client : clients) {
    REQUIRE(client->Send(std::string(kMaxData - 1, '\x7f')));
  }
  CheckAlive(control);
  for (const auto& client : clients) {
    REQUIRE(client->Send("\x7f"));
    const std::optional<Frame> frame = client->Receive();
    REQUIRE(frame.has_value());
    refused += DecodeResponse(*frame).code == kResourceExhausted ? 1 : 0;
  }
  CHECK(refused >= 28);
  CHECK(refused < 32);
  CheckAlive(control);
}

TEST_CASE("garbage harms nobody") {
  AgentProcess agent;
  Client control(agent.AcceptControl());
  CheckAlive(control);
  const size_t descriptors = agent.OpenDescriptors();
  std::mt19937 random(20240917);
  for (int round = 0; round < 200; round++) {
    Client client(agent.Connect());
    std::string bytes(1 + random() % 5000, '\0');
    for (char& byte : bytes) {
      byte = static_cast<char>(random());
    }
    if (round % 2 == 0) {
      // A header that makes sense gets the rest past the framing.
      const auto length = static_cast<uint32_t>(random() % bytes.size());
      bytes = EncodeHeader(length, static_cast<uint32_t>(round | 1),
                           static_cast<uint8_t>(1 + random() % 3), static_cast<uint8_t>(random())) +
              bytes;
    }
    client.Send(bytes);
  }
  CheckAlive(control);
  CheckAlive(control);
  CHECK(agent.ReturnsToDescriptors(descriptors));
}

}  // namespace
}  // namespace embervm::agent_test
