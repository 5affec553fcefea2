#include "client.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "agent.pb-c.h"
#include "ttrpc.pb-c.h"

namespace embervm::agent_test {
namespace {

using Clock = std::chrono::steady_clock;

void PutBe32(std::string& to, uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) {
    to.push_back(static_cast<char>(value >> shift & 0xff));
  }
}

uint32_t GetBe32(const std::string& from, size_t at) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; i++) {
    value = value << 8 | static_cast<uint8_t>(from[at + i]);
  }
  return value;
}

std::string Pack(const ProtobufCMessage& message) {
  std::string packed(protobuf_c_message_get_packed_size(&message), '\0');
  protobuf_c_message_pack(&message, reinterpret_cast<uint8_t*>(packed.data()));
  return packed;
}

const uint8_t* Bytes(const std::string& string) {
  return reinterpret_cast<const uint8_t*>(string.data());
}

std::string ToString(const ProtobufCBinaryData& data) {
  return {reinterpret_cast<const char*>(data.data), data.len};
}

ProtobufCBinaryData ToBytes(const std::string& string) {
  return {string.size(), const_cast<uint8_t*>(Bytes(string))};
}

char* Mutable(const std::string& string) { return const_cast<char*>(string.c_str()); }

int MillisecondsUntil(Clock::time_point end) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now());
  return static_cast<int>(std::max<int64_t>(0, left.count()));
}

}  // namespace

std::string EncodeHeader(uint32_t length, uint32_t stream, uint8_t type, uint8_t flags) {
  std::string header;
  PutBe32(header, length);
  PutBe32(header, stream);
  header.push_back(static_cast<char>(type));
  header.push_back(static_cast<char>(flags));
  return header;
}

std::string EncodeFrame(const Frame& frame) {
  return EncodeHeader(static_cast<uint32_t>(frame.data.size()), frame.stream, frame.type,
                      frame.flags) +
         frame.data;
}

std::string EncodeRequest(const std::string& service, const std::string& method,
                          const std::string& payload, int64_t timeout_ns) {
  Embervm__Ttrpc__Request request = EMBERVM__TTRPC__REQUEST__INIT;
  request.service = Mutable(service);
  request.method = Mutable(method);
  request.payload = ToBytes(payload);
  request.timeout_nano = timeout_ns;
  return Pack(request.base);
}

Answer DecodeResponse(const Frame& frame) {
  REQUIRE(frame.type == kResponse);
  auto* response = embervm__ttrpc__response__unpack(nullptr, frame.data.size(), Bytes(frame.data));
  REQUIRE(response != nullptr);
  Answer answer;
  if (response->status != nullptr) {
    answer.code = response->status->code;
    answer.message = response->status->message;
  }
  answer.payload = ToString(response->payload);
  embervm__ttrpc__response__free_unpacked(response, nullptr);
  return answer;
}

Client::Client(int fd) : fd_(fd) { REQUIRE(fd >= 0); }

Client::~Client() { Close(); }

void Client::Close() {
  if (fd_ >= 0) {
    close(fd_);
    fd_ = -1;
  }
}

uint32_t Client::NextStream() {
  const uint32_t stream = next_stream_;
  next_stream_ += 2;
  return stream;
}

bool Client::Send(const std::string& bytes) {
  for (size_t sent = 0; sent < bytes.size();) {
    const ssize_t count = send(fd_, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
    if (count < 0) {
      return false;
    }
    sent += static_cast<size_t>(count);
  }
  return true;
}

std::optional<Frame> Client::Receive(int timeout_ms) {
  const auto end = Clock::now() + std::chrono::milliseconds(timeout_ms);
  for (;;) {
    if (received_.size() >= 10) {
      const uint32_t length = GetBe32(received_, 0);
      REQUIRE(length <= 4u << 20);
      if (received_.size() >= 10 + length) {
        Frame frame{GetBe32(received_, 4), static_cast<uint8_t>(received_[8]),
                    static_cast<uint8_t>(received_[9]), received_.substr(10, length)};
        received_.erase(0, 10 + length);
        return frame;
      }
    }
    pollfd waiting{fd_, POLLIN, 0};
    if (poll(&waiting, 1, MillisecondsUntil(end)) != 1) {
      return std::nullopt;
    }
    char chunk[65536];
    const ssize_t count = recv(fd_, chunk, sizeof(chunk), 0);
    if (count <= 0) {
      return std::nullopt;
    }
    received_.append(chunk, static_cast<size_t>(count));
  }
}

bool Client::AtEnd(int timeout_ms) {
  pollfd waiting{fd_, POLLIN, 0};
  char byte;
  return poll(&waiting, 1, timeout_ms) == 1 && recv(fd_, &byte, 1, MSG_PEEK) <= 0;
}

Answer Client::Call(const std::string& service, const std::string& method,
                    const std::string& payload) {
  const uint32_t stream = NextStream();
  REQUIRE(Send(EncodeFrame({stream, kRequest, 0, EncodeRequest(service, method, payload)})));
  const std::optional<Frame> frame = Receive();
  REQUIRE(frame.has_value());
  REQUIRE(frame->stream == stream);
  return DecodeResponse(*frame);
}

std::string EncodeStart(const ExecSpec& spec) {
  std::vector<char*> args;
  std::vector<char*> env;
  std::transform(spec.args.begin(), spec.args.end(), std::back_inserter(args), Mutable);
  std::transform(spec.env.begin(), spec.env.end(), std::back_inserter(env), Mutable);
  Embervm__Agent__V1__ExecStart start = EMBERVM__AGENT__V1__EXEC_START__INIT;
  start.exec_id = spec.id;
  start.n_args = args.size();
  start.args = args.data();
  start.n_env = env.size();
  start.env = env.data();
  start.cwd = Mutable(spec.cwd);
  start.user = Mutable(spec.user);
  start.stdin = spec.input.has_value();
  Embervm__Agent__V1__Terminal terminal = EMBERVM__AGENT__V1__TERMINAL__INIT;
  terminal.rows = 24;
  terminal.cols = 80;
  terminal.stream = Mutable(spec.terminal);
  start.terminal = spec.terminal.empty() ? nullptr : &terminal;
  start.restricted = spec.restricted;
  start.init = spec.init;
  std::vector<Embervm__Agent__V1__Rlimit> limits;
  for (const ExecSpec::Limit& limit : spec.limits) {
    limits.push_back(EMBERVM__AGENT__V1__RLIMIT__INIT);
    limits.back().resource = limit.resource;
    limits.back().soft = limit.soft;
    limits.back().hard = limit.hard;
  }
  std::vector<Embervm__Agent__V1__Rlimit*> pointers;
  for (auto& limit : limits) {
    pointers.push_back(&limit);
  }
  start.n_rlimits = pointers.size();
  start.rlimits = pointers.data();
  Embervm__Agent__V1__ExecRequest request = EMBERVM__AGENT__V1__EXEC_REQUEST__INIT;
  request.request_case = EMBERVM__AGENT__V1__EXEC_REQUEST__REQUEST_START;
  request.start = &start;
  return Pack(request.base);
}

std::string EncodeTakeUp(uint64_t exec_id) {
  Embervm__Agent__V1__ExecRequest request = EMBERVM__AGENT__V1__EXEC_REQUEST__INIT;
  request.request_case = EMBERVM__AGENT__V1__EXEC_REQUEST__REQUEST_TAKE_UP;
  request.take_up = exec_id;
  return Pack(request.base);
}

std::string EncodeStdin(const std::string& bytes) {
  Embervm__Agent__V1__ExecRequest request = EMBERVM__AGENT__V1__EXEC_REQUEST__INIT;
  request.request_case = EMBERVM__AGENT__V1__EXEC_REQUEST__REQUEST_STDIN;
  request.stdin = ToBytes(bytes);
  return Pack(request.base);
}

std::string EncodeStdinClose() {
  Embervm__Agent__V1__ExecRequest request = EMBERVM__AGENT__V1__EXEC_REQUEST__INIT;
  request.request_case = EMBERVM__AGENT__V1__EXEC_REQUEST__REQUEST_STDIN_CLOSE;
  request.stdin_close = true;
  return Pack(request.base);
}

std::string EncodeSignal(uint64_t id, int signal, bool group) {
  Embervm__Agent__V1__SignalRequest request = EMBERVM__AGENT__V1__SIGNAL_REQUEST__INIT;
  request.exec_id = id;
  request.signal = signal;
  request.group = group;
  return Pack(request.base);
}

bool DecodeSignal(const Answer& answer) {
  auto* response = embervm__agent__v1__signal_response__unpack(nullptr, answer.payload.size(),
                                                               Bytes(answer.payload));
  REQUIRE(response != nullptr);
  const bool delivered = response->delivered;
  embervm__agent__v1__signal_response__free_unpacked(response, nullptr);
  return delivered;
}

std::string EncodeResize(uint64_t id, uint32_t rows, uint32_t cols) {
  Embervm__Agent__V1__ResizeRequest request = EMBERVM__AGENT__V1__RESIZE_REQUEST__INIT;
  request.exec_id = id;
  request.rows = rows;
  request.cols = cols;
  return Pack(request.base);
}

bool DecodeResize(const Answer& answer) {
  auto* response = embervm__agent__v1__resize_response__unpack(nullptr, answer.payload.size(),
                                                               Bytes(answer.payload));
  REQUIRE(response != nullptr);
  const bool resized = response->resized;
  embervm__agent__v1__resize_response__free_unpacked(response, nullptr);
  return resized;
}

bool Collect(const Frame& frame, ExecOutcome& outcome) {
  if (frame.type == kResponse) {
    const Answer answer = DecodeResponse(frame);
    outcome.code = answer.code;
    outcome.message = answer.message;
    return true;
  }
  REQUIRE(frame.type == kData);
  const bool last = outcome.exit_code || outcome.signal || outcome.failure;
  if ((frame.flags & kRemoteClosed) != 0) {
    CHECK(frame.flags == (kRemoteClosed | kNoData));
    CHECK(frame.data.empty());
    CHECK(last);
    outcome.ended = true;
    return true;
  }
  // After the last event only the end may follow.
  REQUIRE(!last);
  auto* event =
      embervm__agent__v1__exec_event__unpack(nullptr, frame.data.size(), Bytes(frame.data));
  REQUIRE(event != nullptr);
  switch (event->event_case) {
    case EMBERVM__AGENT__V1__EXEC_EVENT__EVENT_STARTED:
      outcome.pid = event->started->pid;
      break;
    case EMBERVM__AGENT__V1__EXEC_EVENT__EVENT_STDOUT:
      CHECK(event->stdout.len <= 65536);
      outcome.out += ToString(event->stdout);
      break;
    case EMBERVM__AGENT__V1__EXEC_EVENT__EVENT_STDERR:
      CHECK(event->stderr.len <= 65536);
      outcome.err += ToString(event->stderr);
      break;
    case EMBERVM__AGENT__V1__EXEC_EVENT__EVENT_EXITED:
      if (event->exited->status_case == EMBERVM__AGENT__V1__EXEC_EXITED__STATUS_SIGNAL) {
        outcome.signal = event->exited->signal;
      } else {
        outcome.exit_code = event->exited->exit_code;
      }
      outcome.held = event->exited->output_held;
      break;
    case EMBERVM__AGENT__V1__EXEC_EVENT__EVENT_FAILED:
      outcome.failure = event->failed->kind;
      outcome.failure_errno = event->failed->error_number;
      outcome.failure_message = event->failed->message;
      break;
    default:
      FAIL("an event of no known kind");
  }
  embervm__agent__v1__exec_event__free_unpacked(event, nullptr);
  return false;
}

uint32_t TakeUpExec(Client& client, uint64_t exec_id) {
  const uint32_t stream = client.NextStream();
  REQUIRE(
      client.Send(EncodeFrame({stream, kRequest, kRemoteOpen,
                               EncodeRequest(kProcessService, "Exec", EncodeTakeUp(exec_id), 0)})));
  return stream;
}

uint32_t StartExec(Client& client, const ExecSpec& spec) {
  const uint32_t stream = client.NextStream();
  REQUIRE(client.Send(
      EncodeFrame({stream, kRequest, kRemoteOpen,
                   EncodeRequest(kProcessService, "Exec", EncodeStart(spec), spec.timeout_ns)})));
  return stream;
}

ExecOutcome FinishExec(Client& client, uint32_t stream, const ExecSpec& spec) {
  const auto begin = Clock::now();
  std::string pending;
  if (spec.input) {
    for (size_t at = 0; at < spec.input->size(); at += 65536) {
      pending += EncodeFrame({stream, kData, 0, EncodeStdin(spec.input->substr(at, 65536))});
    }
    pending += spec.half_close ? EncodeFrame({stream, kData, kRemoteClosed | kNoData, {}})
                               : EncodeFrame({stream, kData, 0, EncodeStdinClose()});
  }
  usleep(static_cast<useconds_t>(spec.stall_ms) * 1000);
  ExecOutcome outcome;
  size_t sent = 0;
  for (bool done = false; !done;) {
    REQUIRE(Clock::now() - begin < std::chrono::seconds(60));
    if (sent < pending.size()) {
      const ssize_t count = send(client.fd(), pending.data() + sent, pending.size() - sent,
                                 MSG_NOSIGNAL | MSG_DONTWAIT);
      REQUIRE((count >= 0 || errno == EAGAIN));
      sent += count > 0 ? static_cast<size_t>(count) : 0;
    }
    const int wait_ms = sent < pending.size() ? 1 : 30'000;
    std::optional<Frame> frame = client.Receive(wait_ms);
    REQUIRE((frame.has_value() || sent < pending.size()));
    while (frame.has_value() && !done) {
      REQUIRE(frame->stream == stream);
      done = Collect(*frame, outcome);
      frame = done ? std::nullopt : client.Receive(0);
    }
  }
  outcome.took = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begin);
  return outcome;
}

ExecOutcome RunExec(const AgentProcess& agent, const ExecSpec& spec) {
  Client client(agent.Connect());
  ExecOutcome outcome = FinishExec(client, StartExec(client, spec), spec);
  // Until the agent has let go of the connection: a caller may count its descriptors.
  shutdown(client.fd(), SHUT_WR);
  client.AtEnd();
  return outcome;
}

}  // namespace embervm::agent_test
