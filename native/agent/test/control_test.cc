// The control connection is dialled again, and the number of streams is bounded.
#include <doctest/doctest.h>
#include <unistd.h>

#include <memory>

#include "client.h"

namespace embervm::agent_test {
namespace {

TEST_CASE("a lost control connection is dialled again") {
  AgentProcess agent;
  for (int i = 0; i < 5; i++) {
    Client control(agent.AcceptControl());
    CHECK(control.Call(kAgentService, "GetInfo").code == 0);
  }
  // Closed before a word was said: the agent comes back, more slowly.
  for (int i = 0; i < 3; i++) {
    Client control(agent.AcceptControl());
  }
  Client control(agent.AcceptControl());
  CHECK(control.Call(kAgentService, "GetInfo").code == 0);
}

TEST_CASE("execs on other connections outlive the control connection") {
  AgentProcess agent;
  Client client(agent.Connect());
  const ExecSpec spec{.args = {"cat"}, .input = "still here"};
  const uint32_t stream = StartExec(client, spec);
  Client(agent.AcceptControl()).Close();
  Client control(agent.AcceptControl());
  CHECK(FinishExec(client, stream, spec).out == "still here");
}

TEST_CASE("connections beyond the limit wait until one ends") {
  AgentProcess agent;
  Client control(agent.AcceptControl());
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 191; i++) {
    clients.push_back(std::make_unique<Client>(agent.Connect()));
    REQUIRE(clients.back()->Call(kAgentService, "GetInfo").code == 0);
  }
  Client waiting(agent.Connect());
  REQUIRE(waiting.Send(EncodeFrame({1, kRequest, 0, EncodeRequest(kAgentService, "GetInfo", {})})));
  CHECK(!waiting.Receive(200).has_value());
  CHECK(control.Call(kAgentService, "GetInfo").code == 0);
  clients.pop_back();
  CHECK(waiting.Receive().has_value());
}

}  // namespace
}  // namespace embervm::agent_test
