// The control connection is dialled again, and the number of streams is bounded.
#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>

#include "agent.pb-c.h"
#include "client.h"
#include "files.h"

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

std::string EncodeRestored(const std::string& seed, const std::string& hostname) {
  Embervm__Agent__V1__RestoredRequest request = EMBERVM__AGENT__V1__RESTORED_REQUEST__INIT;
  std::string bytes = seed;
  std::string name = hostname;
  request.random_seed = {bytes.size(), reinterpret_cast<uint8_t*>(bytes.data())};
  request.hostname = name.data();
  std::string encoded(embervm__agent__v1__restored_request__get_packed_size(&request), '\0');
  embervm__agent__v1__restored_request__pack(&request, reinterpret_cast<uint8_t*>(encoded.data()));
  return encoded;
}

TEST_CASE("a restored machine is renewed with a seed, or not at all") {
  // Neither time nor name are given: this agent shares them with the host.
  const TemporaryDirectory root;
  AgentProcess agent(root.path().c_str());
  Client control(agent.AcceptControl());
  const auto restored = [&](const std::string& seed, const std::string& hostname) {
    return control.Call(kAgentService, "Restored", EncodeRestored(seed, hostname)).code;
  };
  constexpr int kInvalidArgument = 3;
  CHECK(restored("", "") == kInvalidArgument);
  CHECK(restored(std::string(31, 'x'), "") == kInvalidArgument);
  CHECK(restored(std::string(513, 'x'), "") == kInvalidArgument);
  CHECK(restored(std::string(64, 'x'), std::string(65, 'n')) == kInvalidArgument);
  CHECK(restored(std::string(64, 'x'), "") == 0);
  CHECK(access("/.random", F_OK) < 0);

  const std::string seed(64, 'x');
  const std::string path = root.path() + "/etc/machine-id";
  const auto after = [&](const std::string& content) {
    root.Write("etc/machine-id", content, 0444);
    CHECK(restored(seed, "") == 0);
    std::ifstream file(path, std::ios::binary);
    return std::string((std::istreambuf_iterator<char>(file)), {});
  };
  const std::string id = "0123456789abcdef0123456789abcdef";
  const std::string first = after(id + "\n");
  const std::string second = after(id + "\n");
  CHECK(first.size() == id.size() + 1);
  CHECK(first.find_first_not_of("0123456789abcdef\n") == std::string::npos);
  CHECK(first != id + "\n");
  CHECK(first != second);
  CHECK(after(id).size() == id.size());
  CHECK(after(id) != id);
  // Not yet made, or none.
  for (const std::string& other :
       {std::string(), std::string("uninitialized\n"), id.substr(1), id + "\n\n", id + "0",
        "G" + id.substr(1), std::string(4096, 'a')}) {
    CHECK(after(other) == other);
  }
  // Whatever the workload has put there: nothing waits, and nothing outside is written.
  for (const char* place : {"fifo", "link", "directory"}) {
    CAPTURE(place);
    std::filesystem::remove_all(path);
    if (place[0] == 'f') {
      REQUIRE(mkfifo(path.c_str(), 0666) == 0);
    } else if (place[0] == 'l') {
      std::filesystem::create_symlink("../../../../../../etc/machine-id", path);
    } else {
      std::filesystem::create_directory(path);
    }
    CHECK(restored(seed, "") == 0);
  }
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
