// Process.Exec against real programs of this machine.
#include <doctest/doctest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <memory>
#include <random>

#include "agent.pb-c.h"
#include "client.h"
#include "files.h"

namespace embervm::agent_test {
namespace {

constexpr int kInvalidArgument = 3;
constexpr int kDeadlineExceeded = 4;

ExecSpec Shell(const std::string& script) { return {.args = {"/bin/sh", "-c", script}}; }

std::string RandomBytes(size_t size) {
  std::mt19937 random(7);
  std::string bytes(size, '\0');
  for (char& byte : bytes) {
    byte = static_cast<char>(random());
  }
  return bytes;
}

bool Gone(pid_t pid) {
  for (int i = 0; i < 500; i++) {
    if (kill(pid, 0) < 0) {
      return true;
    }
    usleep(10'000);
  }
  return false;
}

TEST_CASE("exit codes arrive as they are") {
  AgentProcess agent;
  const ExecOutcome ok = RunExec(agent, {.args = {"true"}});
  CHECK(ok.exit_code == 0);
  CHECK(ok.pid > 0);
  CHECK(ok.ended);
  CHECK(!ok.held);
  CHECK(RunExec(agent, Shell("exit 3")).exit_code == 3);
  CHECK(RunExec(agent, Shell("exit 255")).exit_code == 255);
}

TEST_CASE("an end by signal is a signal") {
  AgentProcess agent;
  const ExecOutcome killed = RunExec(agent, Shell("kill -9 $$"));
  CHECK(killed.signal == SIGKILL);
  CHECK(!killed.exit_code);
  // The agent blocks SIGPIPE; its children do not.
  CHECK(RunExec(agent, Shell("kill -PIPE $$")).signal == SIGPIPE);
}

TEST_CASE("stdout and stderr are apart and binary safe") {
  AgentProcess agent;
  const ExecOutcome outcome = RunExec(agent, Shell("printf 'a\\0b\\377'; printf 'e\\0' >&2"));
  CHECK(outcome.out == std::string("a\0b\xff", 4));
  CHECK(outcome.err == std::string("e\0", 2));
}

TEST_CASE("8 MiB go through cat intact") {
  AgentProcess agent;
  const std::string input = RandomBytes(size_t{8} << 20);
  for (const bool half_close : {false, true}) {
    const ExecOutcome outcome =
        RunExec(agent, {.args = {"cat"}, .input = input, .half_close = half_close});
    CHECK(outcome.exit_code == 0);
    CHECK(outcome.out.size() == input.size());
    CHECK((outcome.out == input));
  }
}

TEST_CASE("without stdin a process reads the end at once") {
  AgentProcess agent;
  const ExecOutcome outcome = RunExec(agent, {.args = {"cat"}});
  CHECK(outcome.exit_code == 0);
  CHECK(outcome.out.empty());
}

TEST_CASE("a process that does not read its stdin is no error") {
  AgentProcess agent;
  const std::string input = RandomBytes(size_t{4} << 20);
  CHECK(RunExec(agent, {.args = {"true"}, .input = input}).exit_code == 0);
  const ExecOutcome head = RunExec(agent, {.args = {"head", "-c", "3"}, .input = input});
  CHECK(head.exit_code == 0);
  CHECK(head.out == input.substr(0, 3));
  const ExecOutcome closed =
      RunExec(agent, {.args = {"/bin/sh", "-c", "exec <&-; sleep 0.2; echo done"}, .input = input});
  CHECK(closed.exit_code == 0);
  CHECK(closed.out == "done\n");
}

TEST_CASE("a background child that holds stdout does not delay the exit") {
  AgentProcess agent;
  const ExecOutcome outcome = RunExec(agent, Shell("echo hi; sleep 30 & echo $! >&2"));
  CHECK(outcome.exit_code == 0);
  CHECK(outcome.out == "hi\n");
  CHECK(outcome.held);
  CHECK(outcome.took.count() < 2000);
  const pid_t child = std::stoi(outcome.err);
  CHECK(kill(child, 0) == 0);
  kill(child, SIGKILL);
  CHECK(Gone(child));
}

TEST_CASE("output that comes within the grace is not lost") {
  AgentProcess agent;
  // On a busy machine the child may come too late; it must not always.
  ExecOutcome outcome;
  for (int i = 0; i < 20 && (i == 0 || outcome.held); i++) {
    outcome = RunExec(agent, Shell("(sleep 0.01; echo late) & echo early"));
    CHECK((outcome.held || outcome.out == "early\nlate\n"));
  }
  CHECK(!outcome.held);
}

TEST_CASE("a background child that floods stdout does not delay the exit") {
  AgentProcess agent;
  ExecSpec spec = Shell("yes & exit 5");
  spec.stall_ms = 300;
  const ExecOutcome outcome = RunExec(agent, spec);
  CHECK(outcome.exit_code == 5);
  CHECK(outcome.held);
  CHECK(outcome.took.count() < 5000);
}

TEST_CASE("a slow host loses nothing, and the exit comes last") {
  AgentProcess agent;
  Client client(agent.Connect());
  int small = 4096;
  setsockopt(client.fd(), SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
  // More than the socket takes, so that the rest waits in agent and pipe; the last
  // program has ended long before it is read.
  ExecSpec spec = Shell("head -c 700000 /dev/zero; sleep 60 & exit 4");
  spec.stall_ms = 400;
  const uint32_t stream = StartExec(client, spec);
  const ExecOutcome outcome = FinishExec(client, stream, spec);
  CHECK(outcome.exit_code == 4);
  CHECK(outcome.out.size() == 700'000);
  CHECK(outcome.held);
}

TEST_CASE("what is left in a pipe at the exit is delivered") {
  AgentProcess agent;
  std::vector<std::unique_ptr<Client>> stalled;
  Client client(agent.Connect());
  ExecSpec spec = Shell("head -c 500000 /dev/zero; head -c 65536 /dev/zero >&2; exit 6");
  spec.stall_ms = 300;
  const ExecOutcome outcome = FinishExec(client, StartExec(client, spec), spec);
  CHECK(outcome.exit_code == 6);
  CHECK(outcome.out.size() == 500'000);
  CHECK(outcome.err.size() == 65'536);
}

TEST_CASE("memory does not grow with output that nobody reads, nor with input") {
  AgentProcess agent;
  RunExec(agent, {.args = {"true"}});
  const size_t before = agent.ResidentKib();
  Client client(agent.Connect());
  ExecSpec spec{.args = {"head", "-c", "67108864", "/dev/zero"}};
  const uint32_t stream = StartExec(client, spec);
  usleep(500'000);
  CHECK(agent.ResidentKib() < before + 4 * 1024);
  CHECK(FinishExec(client, stream, spec).out.size() == 67'108'864);
  CHECK(agent.ResidentKib() < before + 4 * 1024);

  // A process that never reads: the sender is held back.
  Client writer(agent.Connect());
  const uint32_t input = StartExec(writer, {.args = {"sleep", "60"}, .input = ""});
  const std::string frame = EncodeFrame({input, kData, 0, EncodeStdin(std::string(65536, 'x'))});
  size_t sent = 0;
  for (int idle = 0; idle < 20;) {
    const ssize_t count = send(writer.fd(), frame.data() + sent % frame.size(),
                               frame.size() - sent % frame.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (count > 0) {
      sent += static_cast<size_t>(count);
      idle = 0;
    } else {
      idle++;
      usleep(10'000);
    }
    REQUIRE(sent < size_t{64} << 20);
  }
  CHECK(agent.ResidentKib() < before + 4 * 1024);
}

TEST_CASE("what cannot be started fails with kind and errno") {
  AgentProcess agent;
  TemporaryDirectory directory;
  const std::string plain = directory.Write("plain", "data", 0644);
  const std::string script = directory.Write("script", "echo no header\n", 0755);
  const std::string dangling = directory.Write("dangling", "#!/no/such/interpreter\n", 0755);
  struct Case {
    std::string what;
    ExecSpec spec;
    int kind;
    int error;
  };
  const Case cases[] = {
      {"path", {.args = {"/no/such/program"}}, 1, ENOENT},
      {"PATH", {.args = {"no-such-program"}}, 1, ENOENT},
      {"empty name", {.args = {""}}, 1, ENOENT},
      {"file as directory", {.args = {plain + "/x"}}, 1, ENOTDIR},
      {"loader", {.args = {dangling}}, 1, ENOENT},
      {"no x bit", {.args = {plain}}, 2, EACCES},
      {"directory", {.args = {"/tmp"}}, 2, EACCES},
      {"x bit nowhere in PATH",
       {.args = {"plain"}, .env = {"PATH=" + directory.path()}},
       2,
       EACCES},
      {"no header", {.args = {script}}, 3, ENOEXEC},
      {"no cwd", {.args = {"true"}, .cwd = "/no/such/directory"}, 4, ENOENT},
      {"file as cwd", {.args = {"true"}, .cwd = plain}, 4, ENOTDIR},
      {"relative cwd", {.args = {"true"}, .cwd = "tmp"}, 4, EINVAL},
      {"user", {.args = {"true"}, .user = "no-such-user"}, 5, 0},
      {"group", {.args = {"true"}, .user = "root:no-such-group"}, 5, 0},
      {"empty group", {.args = {"true"}, .user = "root:"}, 5, 0},
      {"uid of all ones", {.args = {"true"}, .user = "4294967295"}, 5, 0},
      {"argument", {.args = {"true", std::string(1 << 20, 'x')}}, 6, E2BIG},
      {"environment", {.args = {"true"}, .env = {"A=" + std::string(1 << 20, 'x')}}, 6, E2BIG},
      {"no args", {}, 8, EINVAL},
      {"env without =", {.args = {"true"}, .env = {"NAME"}}, 8, EINVAL},
      {"env without name", {.args = {"true"}, .env = {"=value"}}, 8, EINVAL},
  };
  Client control(agent.AcceptControl());
  CHECK(control.Call(kAgentService, "GetInfo").code == 0);
  const size_t descriptors = agent.OpenDescriptors();
  for (const Case& test : cases) {
    CAPTURE(test.what);
    const ExecOutcome outcome = RunExec(agent, test.spec);
    CHECK(outcome.failure == test.kind);
    CHECK(outcome.failure_errno == test.error);
    CHECK(!outcome.failure_message.empty());
    CHECK(outcome.ended);
    CHECK(outcome.pid == 0);
  }
  CHECK(RunExec(agent, {.args = {dangling}}).failure_message.find("interpreter") !=
        std::string::npos);
  CHECK(agent.Zombies() == 0);
  CHECK(agent.ReturnsToDescriptors(descriptors));
}

TEST_CASE("arguments and environment may be large") {
  AgentProcess agent;
  ExecSpec spec{.args = {"/bin/sh", "-c", "echo $# ${#V7}", "sh"}};
  for (int i = 0; i < 1000; i++) {
    spec.args.push_back(std::string(500, 'a'));
  }
  for (int i = 0; i < 10; i++) {
    spec.env.push_back("V" + std::to_string(i) + "=" + std::string(100'000, 'v'));
  }
  const ExecOutcome outcome = RunExec(agent, spec);
  CHECK(outcome.exit_code == 0);
  CHECK(outcome.out == "1000 100000\n");
}

TEST_CASE("environment, directory and user") {
  AgentProcess agent;
  const ExecOutcome plain = RunExec(agent, {.args = {"env"}});
  CHECK(plain.out ==
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nHOME=/root\n"
        "USER=root\nLOGNAME=root\n");
  const ExecOutcome given = RunExec(
      agent,
      {.args = {"/usr/bin/env"}, .env = {"PATH=/bin", "A=1", "HOME=/x", "USER=u", "LOGNAME="}});
  CHECK(given.out == "PATH=/bin\nA=1\nHOME=/x\nUSER=u\nLOGNAME=\n");
  CHECK(RunExec(agent, {.args = {"pwd"}}).out == "/root\n");
  CHECK(RunExec(agent, {.args = {"pwd"}, .cwd = "/usr"}).out == "/usr\n");
  // The home of nobody does not exist.
  CHECK(RunExec(agent, {.args = {"pwd"}, .user = "nobody"}).out == "/\n");
  CHECK(RunExec(agent, {.args = {"id", "-u"}, .user = "nobody"}).out == "65534\n");
  CHECK(RunExec(agent, {.args = {"id", "-G"}, .user = "1234:567"}).out == "567\n");
  CHECK(RunExec(agent, {.args = {"id", "-g"}, .user = "root:daemon"}).out == "1\n");
  const ExecOutcome numeric = RunExec(agent, {.args = {"env"}, .user = "4321"});
  CHECK(numeric.out.find("HOME=/\n") != std::string::npos);
  CHECK(numeric.out.find("USER=") == std::string::npos);
}

TEST_CASE("a process leads its session and inherits three descriptors and no mask") {
  AgentProcess agent;
  const ExecOutcome outcome =
      RunExec(agent, {.args = {"cut", "-d ", "-f1,5,6", "/proc/self/stat"}});
  const std::string pid = std::to_string(outcome.pid);
  CHECK(outcome.out == pid + " " + pid + " " + pid + "\n");
  CHECK(RunExec(agent, {.args = {"grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"}}).out ==
        "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
  // 3 is the directory that ls reads.
  CHECK(RunExec(agent, {.args = {"ls", "/proc/self/fd"}}).out == "0\n1\n2\n3\n");
  const ExecSpec with_input{.args = {"ls", "/proc/self/fd"}, .input = "x"};
  CHECK(RunExec(agent, with_input).out == "0\n1\n2\n3\n");
}

TEST_CASE("a hundred processes at once keep their exit codes") {
  AgentProcess agent;
  Client control(agent.AcceptControl());
  CHECK(control.Call(kAgentService, "GetInfo").code == 0);
  const size_t descriptors = agent.OpenDescriptors();
  for (int round = 0; round < 3; round++) {
    std::vector<std::unique_ptr<Client>> clients;
    std::vector<uint32_t> streams;
    for (int i = 0; i < 100; i++) {
      clients.push_back(std::make_unique<Client>(agent.Connect()));
      ExecSpec spec = Shell("echo " + std::to_string(i) + "; exit " + std::to_string(i));
      spec.id = static_cast<uint64_t>(i) + 1;
      streams.push_back(StartExec(*clients.back(), spec));
    }
    for (int i = 0; i < 100; i++) {
      const auto at = static_cast<size_t>(i);
      const ExecOutcome outcome = FinishExec(*clients[at], streams[at], {});
      CHECK(outcome.exit_code == i);
      CHECK(outcome.out == std::to_string(i) + "\n");
    }
  }
  CHECK(agent.Zombies() == 0);
  CHECK(agent.ReturnsToDescriptors(descriptors));
}

TEST_CASE("several processes share a connection") {
  AgentProcess agent;
  Client client(agent.Connect());
  std::map<uint32_t, ExecOutcome> outcomes;
  for (int i = 0; i < 20; i++) {
    ExecSpec spec = Shell("echo " + std::to_string(i) + "; exit " + std::to_string(i));
    spec.id = static_cast<uint64_t>(i) + 1;
    outcomes[StartExec(client, spec)];
  }
  for (size_t open = outcomes.size(); open > 0;) {
    const std::optional<Frame> frame = client.Receive();
    REQUIRE(frame.has_value());
    REQUIRE(outcomes.contains(frame->stream));
    open -= Collect(*frame, outcomes[frame->stream]) ? 1 : 0;
  }
  for (const auto& [stream, outcome] : outcomes) {
    CHECK(outcome.exit_code == static_cast<int>(stream / 2));
  }
}

TEST_CASE("orphans are collected") {
  AgentProcess agent;
  const ExecOutcome outcome = RunExec(
      agent, Shell("for i in 1 2 3 4 5 6 7 8 9 10; do (sleep 0.05 >/dev/null 2>&1 &); done"));
  CHECK(outcome.exit_code == 0);
  usleep(300'000);
  CHECK(agent.Zombies() == 0);
}

TEST_CASE("a lost connection kills the process group") {
  AgentProcess agent;
  std::vector<pid_t> pids;
  {
    Client client(agent.Connect());
    StartExec(client, Shell("sleep 1000 & echo $! $$; wait"));
    ExecOutcome outcome;
    while (outcome.out.find('\n') == std::string::npos) {
      const std::optional<Frame> frame = client.Receive();
      REQUIRE(frame.has_value());
      REQUIRE(!Collect(*frame, outcome));
    }
    pids = {std::stoi(outcome.out), std::stoi(outcome.out.substr(outcome.out.find(' ')))};
    CHECK(pids[1] == outcome.pid);
    CHECK(kill(pids[0], 0) == 0);
  }
  CHECK(Gone(pids[0]));
  CHECK(Gone(pids[1]));
}

TEST_CASE("a connection lost while its input is held back kills the process too") {
  AgentProcess agent;
  pid_t pid = 0;
  {
    Client client(agent.Connect());
    const uint32_t stream = StartExec(client, {.args = {"sleep", "1000"}, .input = ""});
    ExecOutcome outcome;
    while (outcome.pid == 0) {
      const std::optional<Frame> frame = client.Receive();
      REQUIRE(frame.has_value());
      Collect(*frame, outcome);
    }
    pid = outcome.pid;
    for (int i = 0; i < 3; i++) {
      client.Send(EncodeFrame({stream, kData, 0, EncodeStdin(std::string(65536, 'x'))}));
    }
    usleep(50'000);
  }
  CHECK(Gone(pid));
}

TEST_CASE("Signal reaches the process or its group, while it lives") {
  AgentProcess agent;
  Client control(agent.AcceptControl());
  for (const bool group : {false, true}) {
    Client client(agent.Connect());
    ExecSpec spec = Shell("trap 'echo got; exit 9' TERM; echo ready; sleep 1000 & wait");
    spec.id = 77;
    const uint32_t stream = StartExec(client, spec);
    ExecOutcome outcome;
    while (outcome.out != "ready\n") {
      const std::optional<Frame> frame = client.Receive();
      REQUIRE(frame.has_value());
      REQUIRE(!Collect(*frame, outcome));
    }
    usleep(20'000);
    CHECK(!DecodeSignal(control.Call(kProcessService, "Signal", EncodeSignal(78, SIGTERM, group))));
    CHECK(DecodeSignal(control.Call(kProcessService, "Signal", EncodeSignal(77, SIGTERM, group))));
    const ExecOutcome end = FinishExec(client, stream, {});
    CHECK(end.exit_code == 9);
    CHECK(end.out == "got\n");
    // The sleep holds stdout unless the signal went to it too.
    CHECK(end.held == !group);
    CHECK(!DecodeSignal(control.Call(kProcessService, "Signal", EncodeSignal(77, SIGKILL, group))));
  }
  for (const int signal : {-1, 0, 65}) {
    CHECK(control.Call(kProcessService, "Signal", EncodeSignal(1, signal, false)).code ==
          kInvalidArgument);
  }
}

TEST_CASE("a full stdin pipe does not delay a signal") {
  AgentProcess agent;
  Client control(agent.AcceptControl());
  Client client(agent.Connect());
  const uint32_t stream = StartExec(client, {.args = {"sleep", "1000"}, .id = 5, .input = ""});
  for (int i = 0; i < 3; i++) {
    client.Send(EncodeFrame({stream, kData, 0, EncodeStdin(std::string(65536, 'x'))}));
  }
  while (!DecodeSignal(control.Call(kProcessService, "Signal", EncodeSignal(5, SIGINT, true)))) {
    usleep(10'000);
  }
  CHECK(FinishExec(client, stream, {}).signal == SIGINT);
}

TEST_CASE("a deadline ends the call and the process group") {
  AgentProcess agent;
  ExecSpec spec = Shell("sleep 1000 & wait");
  spec.timeout_ns = 200'000'000;
  const ExecOutcome outcome = RunExec(agent, spec);
  CHECK(outcome.code == kDeadlineExceeded);
  CHECK(outcome.took.count() < 3000);
  CHECK(Gone(outcome.pid));
}

TEST_CASE("a stream that breaks the rules fails, and its process is killed") {
  AgentProcess agent;
  struct Case {
    std::string what;
    Frame frame;
  };
  const Case cases[] = {
      {"second start", {0, kData, 0, EncodeStart({.args = {"true"}})}},
      {"stdin over 64 KiB", {0, kData, 0, EncodeStdin(std::string(65537, 'x'))}},
      {"empty request", {0, kData, 0, {}}},
      {"malformed", {0, kData, 0, "\xff\xff"}},
      {"close with data", {0, kData, kRemoteClosed, EncodeStdin("x")}},
  };
  for (const Case& test : cases) {
    CAPTURE(test.what);
    Client client(agent.Connect());
    const uint32_t stream = StartExec(client, {.args = {"sleep", "1000"}, .input = ""});
    Frame frame = test.frame;
    frame.stream = stream;
    REQUIRE(client.Send(EncodeFrame(frame)));
    ExecOutcome outcome;
    for (bool done = false; !done;) {
      const std::optional<Frame> received = client.Receive();
      REQUIRE(received.has_value());
      done = Collect(*received, outcome);
    }
    CHECK(outcome.code == kInvalidArgument);
    CHECK(Gone(outcome.pid));
    CHECK(client.Call(kAgentService, "GetInfo").code == 0);
  }

  Client client(agent.Connect());
  CHECK(client.Call(kProcessService, "Exec", EncodeStdin("x")).code == kInvalidArgument);
  const uint32_t stream = client.NextStream();
  REQUIRE(client.Send(
      EncodeFrame({stream, kRequest, kRemoteClosed, EncodeRequest(kProcessService, "Exec", {})})));
  const std::optional<Frame> frame = client.Receive();
  REQUIRE(frame.has_value());
  CHECK(DecodeResponse(*frame).code == kInvalidArgument);
}

TEST_CASE("the first message may follow the request") {
  AgentProcess agent;
  Client client(agent.Connect());
  const uint32_t stream = client.NextStream();
  REQUIRE(client.Send(
      EncodeFrame({stream, kRequest, kRemoteOpen, EncodeRequest(kProcessService, "Exec", {})})));
  REQUIRE(client.Send(EncodeFrame({stream, kData, 0, EncodeStart({.args = {"true"}})})));
  CHECK(FinishExec(client, stream, {}).exit_code == 0);
}

TEST_CASE("an id in use is refused, and free again after the exit") {
  AgentProcess agent;
  Client client(agent.Connect());
  const ExecSpec spec{.args = {"cat"}, .id = 42, .input = ""};
  const uint32_t stream = StartExec(client, spec);
  REQUIRE(client.Receive().has_value());
  CHECK(RunExec(agent, {.args = {"true"}, .id = 42}).failure == 8);
  CHECK(FinishExec(client, stream, spec).exit_code == 0);
  CHECK(RunExec(agent, {.args = {"true"}, .id = 42}).exit_code == 0);
}

}  // namespace
}  // namespace embervm::agent_test
