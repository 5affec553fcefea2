// A small ttrpc client that can also break every rule.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "agent_process.h"

namespace embervm::agent_test {

inline constexpr uint8_t kRequest = 1;
inline constexpr uint8_t kResponse = 2;
inline constexpr uint8_t kData = 3;
inline constexpr uint8_t kRemoteClosed = 1;
inline constexpr uint8_t kRemoteOpen = 2;
inline constexpr uint8_t kNoData = 4;

struct Frame {
  uint32_t stream = 0;
  uint8_t type = 0;
  uint8_t flags = 0;
  std::string data;
};

struct Answer {
  int code = 0;
  std::string message;
  std::string payload;
};

std::string EncodeHeader(uint32_t length, uint32_t stream, uint8_t type, uint8_t flags);
std::string EncodeFrame(const Frame& frame);
std::string EncodeRequest(const std::string& service, const std::string& method,
                          const std::string& payload, int64_t timeout_ns = 0);
Answer DecodeResponse(const Frame& frame);

class Client {
 public:
  explicit Client(int fd);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  int fd() const { return fd_; }
  void Close();
  uint32_t NextStream();
  // False when the peer has gone.
  bool Send(const std::string& bytes);
  // Nothing at the end of the connection or after the time.
  std::optional<Frame> Receive(int timeout_ms = 10'000);
  // Whether the peer has ended the connection.
  bool AtEnd(int timeout_ms = 5000);
  Answer Call(const std::string& service, const std::string& method,
              const std::string& payload = {});

 private:
  int fd_;
  uint32_t next_stream_ = 1;
  std::string received_;
};

struct ExecSpec {
  std::vector<std::string> args;
  std::vector<std::string> env;
  std::string cwd;
  std::string user;
  uint64_t id = 0;
  std::optional<std::string> input;
  // The id of the raw stream of a terminal of 24 rows and 80 columns.
  std::string terminal;
  // End stdin by closing the stream instead of by a message.
  bool half_close = false;
  int64_t timeout_ns = 0;
  struct Limit {
    uint32_t resource = 0;
    uint64_t soft = 0;
    uint64_t hard = 0;
  };
  std::vector<Limit> limits;
  bool restricted = false;
  bool init = false;
  // Reading waits this long after the start.
  int stall_ms = 0;
};

struct ExecOutcome {
  int pid = 0;
  std::string out;
  std::string err;
  std::optional<int> exit_code;
  std::optional<int> signal;
  bool held = false;
  std::optional<int> failure;
  int failure_errno = 0;
  std::string failure_message;
  // Status of the stream, when it ended with one.
  int code = 0;
  std::string message;
  // The stream ended as the protocol wants it, and nothing came after the last event.
  bool ended = false;
  std::chrono::milliseconds took{};
};

std::string EncodeStart(const ExecSpec& spec);
std::string EncodeStdin(const std::string& bytes);
std::string EncodeStdinClose();
std::string EncodeSignal(uint64_t id, int signal, bool group);
bool DecodeSignal(const Answer& answer);
std::string EncodeResize(uint64_t id, uint32_t rows, uint32_t cols);
bool DecodeResize(const Answer& answer);

// Adds what a frame says. True when it ended the stream.
bool Collect(const Frame& frame, ExecOutcome& outcome);

// Opens the stream and gives its id.
uint32_t StartExec(Client& client, const ExecSpec& spec);
// The same for an init that runs.
uint32_t TakeUpExec(Client& client, uint64_t exec_id);
// Feeds stdin and gathers the events until the stream ends.
ExecOutcome FinishExec(Client& client, uint32_t stream, const ExecSpec& spec);
ExecOutcome RunExec(const AgentProcess& agent, const ExecSpec& spec);

inline constexpr char kAgentService[] = "embervm.agent.v1.Agent";
inline constexpr char kProcessService[] = "embervm.agent.v1.Process";

}  // namespace embervm::agent_test
