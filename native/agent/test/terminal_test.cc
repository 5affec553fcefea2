// Terminals and the raw streams that carry them, against real programs.
#include <doctest/doctest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <memory>
#include <string>
#include <vector>

#include "agent.pb-c.h"
#include "client.h"

namespace embervm::agent_test {
namespace {

using Clock = std::chrono::steady_clock;

std::string Head(const std::string& id) {
  const auto length = static_cast<uint32_t>(id.size());
  std::string head(4, '\0');
  for (int i = 0; i < 4; i++) {
    head[static_cast<size_t>(i)] = static_cast<char>(length >> (24 - 8 * i));
  }
  return head + id;
}

// The host's end of a raw stream.
class RawStream {
 public:
  explicit RawStream(const AgentProcess& agent) : fd_(agent.ConnectRaw()) { REQUIRE(fd_ >= 0); }
  RawStream(const AgentProcess& agent, const std::string& id) : RawStream(agent) {
    Send(Head(id));
    REQUIRE(ReadExactly(Head(id).size()) == Head(id));
  }
  ~RawStream() { Close(); }
  RawStream(const RawStream&) = delete;
  RawStream& operator=(const RawStream&) = delete;

  int fd() const { return fd_; }
  void Close() {
    if (fd_ >= 0) {
      close(fd_);
      fd_ = -1;
    }
  }
  void Send(const std::string& bytes) {
    REQUIRE(send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
            static_cast<ssize_t>(bytes.size()));
  }
  // One read; empty at the end, or when the time is over.
  std::string Read(int timeout_ms = 10'000, size_t most = 65536) {
    pollfd waiting{fd_, POLLIN, 0};
    if (poll(&waiting, 1, timeout_ms) != 1) {
      timed_out_ = true;
      return {};
    }
    std::string bytes(most, '\0');
    const ssize_t got = recv(fd_, bytes.data(), bytes.size(), 0);
    bytes.resize(got > 0 ? static_cast<size_t>(got) : 0);
    return bytes;
  }
  std::string ReadExactly(size_t size) {
    std::string all;
    while (all.size() < size) {
      const std::string more = Read(10'000, size - all.size());
      if (more.empty()) {
        break;
      }
      all += more;
    }
    return all;
  }
  std::string ReadUntil(const std::string& what) {
    std::string all;
    while (all.find(what) == std::string::npos) {
      const std::string more = Read();
      if (more.empty()) {
        FAIL("no \"" << what << "\" in: " << all);
      }
      all += more;
    }
    return all;
  }
  std::string ReadToEnd() {
    std::string all;
    for (std::string more; !(more = Read()).empty();) {
      all += more;
    }
    CHECK(!timed_out_);
    return all;
  }
  // Ended by the agent, within the time.
  bool Ended(int timeout_ms) {
    const std::string rest = Read(timeout_ms);
    return rest.empty() && !timed_out_;
  }

 private:
  int fd_;
  bool timed_out_ = false;
};

// A program on a terminal.
struct Session {
  Session(const AgentProcess& agent, const std::string& script, const std::string& user = {})
      : raw(agent, "tty"), client(agent.Connect()) {
    spec.args = {"/bin/sh", "-c", script};
    spec.user = user;
    spec.id = 77;
    spec.terminal = "tty";
    stream = StartExec(client, spec);
  }
  ExecOutcome Finish() { return FinishExec(client, stream, spec); }

  RawStream raw;
  Client client;
  ExecSpec spec;
  uint32_t stream = 0;
};

bool Gone(pid_t pid) {
  for (int i = 0; i < 500; i++) {
    if (kill(pid, 0) < 0) {
      return true;
    }
    usleep(10'000);
  }
  return false;
}

TEST_CASE("a program on a terminal has its size, its owner and a session of its own") {
  AgentProcess agent;
  Session session(agent, "stty size; tty; stat -c '%u' $(tty); ps -o stat= -p $$; exit 7",
                  "1000:1000");
  const std::string out = session.raw.ReadToEnd();
  CHECK(out.find("24 80\r\n") == 0);
  CHECK(out.find("\r\n/dev/pts/") != std::string::npos);
  CHECK(out.find("\r\n1000\r\n") != std::string::npos);
  // Leads its session, in the foreground.
  CHECK(out.find("Ss+") != std::string::npos);
  const ExecOutcome outcome = session.Finish();
  CHECK(outcome.exit_code == 7);
  CHECK(!outcome.held);
  CHECK(outcome.ended);
  CHECK(outcome.out.empty());
}

TEST_CASE("what a program wrote before its end arrives whole, also to a slow reader") {
  AgentProcess agent;
  Session session(agent, "stty raw; head -c 200000 /dev/zero | tr '\\0' x; printf end");
  std::string out;
  for (std::string more; !(more = session.raw.Read(10'000, 3000)).empty();) {
    out += more;
    usleep(1000);
  }
  CHECK(out.size() == 200'003);
  CHECK(out.substr(200'000) == "end");
  CHECK(session.Finish().exit_code == 0);
}

TEST_CASE("bytes travel both ways at once, binary safe in raw mode") {
  AgentProcess agent;
  Session session(agent, "stty raw -echo; printf ready; head -c 300000");
  session.raw.ReadUntil("ready");
  std::string sent(300'000, '\0');
  for (size_t i = 0; i < sent.size(); i++) {
    sent[i] = static_cast<char>(i * 7 + i / 256);
  }
  std::string received;
  size_t at = 0;
  while (received.size() < sent.size()) {
    pollfd waiting{session.raw.fd(), POLLIN, 0};
    if (at < sent.size()) {
      waiting.events |= POLLOUT;
    }
    REQUIRE(poll(&waiting, 1, 10'000) == 1);
    if ((waiting.revents & POLLOUT) != 0) {
      const ssize_t count =
          send(session.raw.fd(), sent.data() + at, sent.size() - at, MSG_NOSIGNAL | MSG_DONTWAIT);
      at += count > 0 ? static_cast<size_t>(count) : 0;
    }
    if ((waiting.revents & POLLIN) != 0) {
      const std::string more = session.raw.Read();
      REQUIRE(!more.empty());
      received += more;
    }
  }
  CHECK((received == sent));
  CHECK(session.Finish().exit_code == 0);
}

TEST_CASE("the characters of the terminal raise signals") {
  AgentProcess agent;
  Session session(agent, "printf ready; exec sleep 100");
  session.raw.ReadUntil("ready");
  session.raw.Send("\x03");
  session.raw.ReadToEnd();
  CHECK(session.Finish().signal == SIGINT);
}

TEST_CASE("a new size reaches the program, and none is set where there is no terminal") {
  AgentProcess agent;
  Client control(agent.AcceptControl());
  const auto resize = [&](uint64_t id, uint32_t rows, uint32_t cols) {
    return control.Call(kProcessService, "Resize", EncodeResize(id, rows, cols));
  };
  Session session(agent, "trap 'stty size; exit' WINCH; printf ready; while :; do sleep 0.1; done");
  session.raw.ReadUntil("ready");
  CHECK(DecodeResize(resize(77, 50, 132)));
  session.raw.ReadUntil("50 132\r\n");
  CHECK(session.Finish().exit_code == 0);
  CHECK(!DecodeResize(resize(77, 1, 1)));
  CHECK(resize(77, 65536, 1).code == 3);

  Client piped(agent.Connect());
  const ExecSpec spec{.args = {"sleep", "100"}, .id = 78};
  StartExec(piped, spec);
  REQUIRE(piped.Receive().has_value());
  CHECK(!DecodeResize(resize(78, 50, 132)));
}

TEST_CASE("the end of the connection hangs the session up") {
  AgentProcess agent;
  Session session(agent, "echo pid $$; sleep 100; :");
  const std::string out = session.raw.ReadUntil("\n");
  const pid_t pid = std::stoi(out.substr(4));
  session.client.Close();
  CHECK(Gone(pid));
  CHECK(session.raw.Ended(5000));
}

TEST_CASE("a host that detaches leaves the program running") {
  AgentProcess agent;
  Session session(agent,
                  "printf ready; i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done;"
                  "exit 4");
  session.raw.ReadUntil("ready");
  session.raw.Close();
  CHECK(session.Finish().exit_code == 4);
}

TEST_CASE("a background process that keeps the terminal does not hold up the exit") {
  AgentProcess agent;
  Session session(agent, "trap '' HUP; sleep 100 & echo pid $!; exit 0");
  const auto begin = Clock::now();
  const std::string out = session.raw.ReadToEnd();
  const ExecOutcome outcome = session.Finish();
  CHECK(outcome.exit_code == 0);
  CHECK(outcome.held);
  CHECK(Clock::now() - begin < std::chrono::seconds(5));
  kill(std::stoi(out.substr(4)), SIGKILL);
}

TEST_CASE("a terminal without its raw stream is a failure") {
  AgentProcess agent;
  const ExecOutcome outcome = RunExec(agent, {.args = {"true"}, .terminal = "unknown"});
  CHECK(outcome.failure == EMBERVM__AGENT__V1__EXEC_FAILURE_KIND__EXEC_FAILURE_KIND_PTY_FAILED);
  CHECK(outcome.failure_errno == ENOENT);
  CHECK(outcome.failure_message.find("\"unknown\"") != std::string::npos);
}

TEST_CASE("a program that cannot be started gives its terminal and its stream back") {
  AgentProcess agent;
  CHECK(RunExec(agent, {.args = {"true"}}).exit_code == 0);
  const size_t before = agent.OpenDescriptors();
  {
    RawStream raw(agent, "t");
    const ExecOutcome outcome = RunExec(agent, {.args = {"/nowhere"}, .terminal = "t"});
    CHECK(outcome.failure == EMBERVM__AGENT__V1__EXEC_FAILURE_KIND__EXEC_FAILURE_KIND_NOT_FOUND);
    CHECK(raw.Ended(5000));
  }
  CHECK(agent.ReturnsToDescriptors(before));
}

TEST_CASE("stdin messages are no way into a terminal") {
  AgentProcess agent;
  Session session(agent, "cat");
  REQUIRE(session.client.Send(EncodeFrame({session.stream, kData, 0, EncodeStdin("x")})));
  ExecOutcome outcome;
  for (bool done = false; !done;) {
    const auto frame = session.client.Receive();
    REQUIRE(frame.has_value());
    done = Collect(*frame, outcome);
  }
  CHECK(outcome.code == 3);
  CHECK(session.raw.Ended(5000));
}

TEST_CASE("raw streams that break the rules are closed") {
  AgentProcess agent;
  RawStream empty(agent);
  empty.Send(std::string(4, '\0'));
  CHECK(empty.Ended(5000));
  RawStream huge(agent);
  huge.Send(std::string("\0\0\1\1", 4));
  CHECK(huge.Ended(5000));
  RawStream first(agent, "same");
  RawStream second(agent);
  second.Send(Head("same"));
  CHECK(second.Ended(5000));
  // A byte at a time is fine, and so is the longest id.
  RawStream slow(agent);
  const std::string head = Head(std::string(256, 'i'));
  for (const char byte : head) {
    slow.Send({byte});
  }
  CHECK(slow.ReadExactly(head.size()) == head);
}

TEST_CASE("raw streams that nobody claims are dropped, and more than the limit wait") {
  AgentProcess agent;
  // The agent dials and listens first.
  CHECK(RunExec(agent, {.args = {"true"}}).exit_code == 0);
  const size_t before = agent.OpenDescriptors();
  std::vector<std::unique_ptr<RawStream>> streams;
  for (int i = 0; i < 32; i++) {
    streams.push_back(std::make_unique<RawStream>(agent, "s" + std::to_string(i)));
  }
  RawStream waiting(agent);
  waiting.Send(Head("late"));
  CHECK(agent.OpenDescriptors() == before + 32);
  CHECK(streams[0]->Ended(15'000));
  CHECK(waiting.ReadExactly(8) == Head("late"));
  for (auto& stream : streams) {
    CHECK(stream->Ended(5000));
  }
  CHECK(waiting.Ended(15'000));
  CHECK(agent.ReturnsToDescriptors(before));
}

}  // namespace
}  // namespace embervm::agent_test
