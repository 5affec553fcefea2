// What Process.Exec takes away from a process, and the workload's own init.
#include <doctest/doctest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>

#include "client.h"

namespace embervm::agent_test {
namespace {

constexpr int kNotFound = 5;
constexpr int kResourceLimit = 6;
constexpr int kBadRequest = 8;
constexpr int kFailedPrecondition = 9;
constexpr int kUnavailable = 14;

ExecSpec Shell(const std::string& script) { return {.args = {"/bin/sh", "-c", script}}; }

TEST_CASE("limits are those of the process") {
  AgentProcess agent;
  ExecSpec spec = Shell("ulimit -n; ulimit -Hn; ulimit -c; ulimit -f");
  spec.limits = {{RLIMIT_NOFILE, 64, 128}, {RLIMIT_CORE, 0, 0}, {RLIMIT_FSIZE, ~0ULL, ~0ULL}};
  CHECK(RunExec(agent, spec).out == "64\n128\n0\nunlimited\n");
  // And of no other.
  CHECK(RunExec(agent, Shell("ulimit -n")).out != "64\n");
}

TEST_CASE("limits that cannot be") {
  AgentProcess agent;
  for (const ExecSpec::Limit limit :
       {ExecSpec::Limit{RLIMIT_NOFILE, 2, 1}, ExecSpec::Limit{RLIM_NLIMITS, 1, 1},
        ExecSpec::Limit{~0U, 1, 1},
        // Above what the kernel lets anybody have.
        ExecSpec::Limit{RLIMIT_NOFILE, ~0ULL - 1, ~0ULL - 1}}) {
    ExecSpec spec{.args = {"true"}};
    spec.limits = {limit};
    CHECK(RunExec(agent, spec).failure == kResourceLimit);
  }
  ExecSpec spec{.args = {"true"}};
  spec.limits = std::vector<ExecSpec::Limit>(17, {RLIMIT_CORE, 0, 0});
  CHECK(RunExec(agent, spec).failure == kBadRequest);
}

TEST_CASE("a restricted process has few capabilities and gains none") {
  AgentProcess agent;
  const std::string script = "grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status";
  ExecSpec spec = Shell(script);
  spec.restricted = true;
  // CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE,
  // NET_RAW, AUDIT_WRITE, SETFCAP: those of this test's own that are among them.
  const ExecOutcome outcome = RunExec(agent, spec);
  CHECK(outcome.out.find("NoNewPrivs:\t1") != std::string::npos);
  const auto bounding =
      std::stoull(outcome.out.substr(outcome.out.find("CapBnd:") + 8), nullptr, 16);
  CHECK((bounding & ~0xa00025fbULL) == 0);
  const auto effective =
      std::stoull(outcome.out.substr(outcome.out.find("CapEff:") + 8), nullptr, 16);
  CHECK((effective & ~0xa00025fbULL) == 0);
  CHECK((effective & 1U) == 1);
  CHECK(RunExec(agent, Shell(script)).out.find("NoNewPrivs:\t0") != std::string::npos);

  spec = Shell("chroot / true");
  spec.restricted = true;
  CHECK(RunExec(agent, spec).exit_code != 0);
  spec = {.args = {"id", "-u"}, .user = "65534"};
  spec.restricted = true;
  CHECK(RunExec(agent, spec).out == "65534\n");
}

TEST_CASE("an init is PID 1 of those that start after it") {
  AgentProcess agent;
  Client client(agent.Connect());
  ExecSpec init = Shell("trap 'exit 5' TERM; echo $$; while :; do sleep 0.1; done");
  init.id = 7;
  init.init = true;
  const uint32_t stream = StartExec(client, init);
  ExecOutcome begun;
  while (begun.out.empty()) {
    const auto frame = client.Receive();
    REQUIRE(frame.has_value());
    REQUIRE(!Collect(*frame, begun));
  }
  CHECK(begun.out == "1\n");

  const ExecOutcome beside = RunExec(agent, Shell("echo $$; kill -0 1 && cat /proc/1/cmdline"));
  CHECK(beside.out.find("trap") != std::string::npos);
  CHECK(beside.out.size() < 120);
  // The agent sees it by another number than it has among its own.
  CHECK(beside.pid != std::stoi(beside.out));
  CHECK(RunExec(agent, init).failure == kBadRequest);

  CHECK(RunExec(agent, Shell("kill -TERM 1")).exit_code == 0);
  CHECK(FinishExec(client, stream, init).exit_code == 5);
  CHECK(RunExec(agent, {.args = {"true"}}).code == kUnavailable);
}

TEST_CASE("the end of an init is the end of its processes") {
  AgentProcess agent;
  Client client(agent.Connect());
  ExecSpec init{.args = {"sleep", "60"}, .id = 7};
  init.init = true;
  const uint32_t stream = StartExec(client, init);
  REQUIRE(client.Receive().has_value());
  Client other(agent.Connect());
  const ExecSpec spec{.args = {"sleep", "61"}, .id = 8};
  const uint32_t beside = StartExec(other, spec);
  REQUIRE(other.Receive().has_value());
  Client control(agent.Connect());
  REQUIRE(DecodeSignal(control.Call(kProcessService, "Signal", EncodeSignal(7, SIGKILL, false))));
  CHECK(FinishExec(client, stream, init).signal == SIGKILL);
  CHECK(FinishExec(other, beside, spec).signal == SIGKILL);
}

// What has come by the time that `out` ends with `end`.
ExecOutcome Until(Client& client, const std::string& end) {
  ExecOutcome outcome;
  while (!outcome.out.ends_with(end)) {
    const auto frame = client.Receive();
    REQUIRE(frame.has_value());
    REQUIRE(!Collect(*frame, outcome));
  }
  return outcome;
}

ExecSpec InitThatAnswers() {
  ExecSpec init = Shell(
      "trap 'echo alive' USR1; trap 'echo over; exit 5' TERM; echo begun; while :; do sleep 0.05; "
      "done");
  init.id = 7;
  init.init = true;
  return init;
}

TEST_CASE("an init that has lost its stream goes on, and another takes it up") {
  AgentProcess agent;
  const ExecSpec init = InitThatAnswers();
  pid_t pid = 0;
  {
    Client client(agent.Connect());
    StartExec(client, init);
    pid = Until(client, "begun\n").pid;
  }
  Client client(agent.Connect());
  const uint32_t stream = TakeUpExec(client, init.id);
  CHECK(RunExec(agent, Shell("kill -USR1 1")).exit_code == 0);
  const ExecOutcome outcome = Until(client, "alive\n");
  CHECK(outcome.pid == pid);
  CHECK(outcome.out == "alive\n");
  CHECK(RunExec(agent, Shell("kill -TERM 1")).exit_code == 0);
  const ExecOutcome end = FinishExec(client, stream, {});
  CHECK(end.out == "over\n");
  CHECK(end.exit_code == 5);
}

TEST_CASE("whoever takes up an init last has it, and who had it is told") {
  AgentProcess agent;
  Client first(agent.Connect());
  const ExecSpec init = InitThatAnswers();
  const uint32_t lost = StartExec(first, init);
  Until(first, "begun\n");
  Client second(agent.Connect());
  const uint32_t stream = TakeUpExec(second, init.id);
  REQUIRE(second.Receive().has_value());
  CHECK(FinishExec(first, lost, {}).code == kFailedPrecondition);
  CHECK(RunExec(agent, Shell("kill -TERM 1")).exit_code == 0);
  CHECK(FinishExec(second, stream, {}).exit_code == 5);
  // It is over and told: nobody can have it again.
  Client third(agent.Connect());
  CHECK(FinishExec(third, TakeUpExec(third, init.id), {}).code == kNotFound);
}

TEST_CASE("of an init that ended meanwhile there is its last output, and its end") {
  AgentProcess agent;
  const ExecSpec init = InitThatAnswers();
  {
    Client client(agent.Connect());
    StartExec(client, init);
    Until(client, "begun\n");
  }
  CHECK(RunExec(agent, Shell("kill -TERM 1")).exit_code == 0);
  while (RunExec(agent, {.args = {"true"}}).code != kUnavailable) {
    // Until its end has been seen.
  }
  Client client(agent.Connect());
  const ExecOutcome end = FinishExec(client, TakeUpExec(client, init.id), {});
  CHECK(end.out == "over\n");
  CHECK(end.exit_code == 5);
}

TEST_CASE("nothing but an init is taken up") {
  AgentProcess agent;
  Client client(agent.Connect());
  CHECK(FinishExec(client, TakeUpExec(client, 0), {}).code == kNotFound);
  const ExecSpec spec{.args = {"sleep", "60"}, .id = 8};
  StartExec(client, spec);
  REQUIRE(client.Receive().has_value());
  Client other(agent.Connect());
  CHECK(FinishExec(other, TakeUpExec(other, 8), {}).code == kNotFound);
}

}  // namespace
}  // namespace embervm::agent_test
