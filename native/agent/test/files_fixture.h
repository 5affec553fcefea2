// A root of files on this machine, an agent that serves it, and calls of its Files service.
#pragma once

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "client.h"
#include "files.h"
#include "files.pb-c.h"

namespace embervm::agent_test::files {

inline constexpr char kFiles[] = "embervm.agent.v1.Files";
inline constexpr int kInvalidArgument = 3;
inline constexpr uint32_t kRecursive = EMBERVM__AGENT__V1__FILE_FLAG__FILE_FLAG_RECURSIVE;
inline constexpr uint32_t kNoFollow = EMBERVM__AGENT__V1__FILE_FLAG__FILE_FLAG_NO_FOLLOW;
inline constexpr uint32_t kAppend = EMBERVM__AGENT__V1__FILE_FLAG__FILE_FLAG_APPEND;
inline constexpr uint32_t kExclusive = EMBERVM__AGENT__V1__FILE_FLAG__FILE_FLAG_EXCLUSIVE;
inline constexpr uint32_t kReplace = EMBERVM__AGENT__V1__FILE_FLAG__FILE_FLAG_REPLACE;
inline constexpr uint32_t kSetMode = EMBERVM__AGENT__V1__FILE_FLAG__FILE_FLAG_SET_MODE;
inline constexpr uint32_t kSetOwner = EMBERVM__AGENT__V1__FILE_FLAG__FILE_FLAG_SET_OWNER;
inline constexpr uint32_t kSetTime = EMBERVM__AGENT__V1__FILE_FLAG__FILE_FLAG_SET_TIME;
inline constexpr uint32_t kSparse = EMBERVM__AGENT__V1__FILE_FLAG__FILE_FLAG_SPARSE;

struct Request {
  std::string path;
  std::string target;
  std::string data;
  uint32_t flags = 0;
  uint32_t mode = 0;
  uint32_t uid = 0;
  uint32_t gid = 0;
  int64_t mtime_ns = 0;
  uint64_t offset = 0;
  uint64_t length = 0;
};

struct Entry {
  std::string name;
  uint32_t mode = 0;
  uint64_t size = 0;
  int64_t mtime_ns = 0;
  uint32_t uid = 0;
  uint32_t gid = 0;
  uint32_t links = 0;
  std::string target;
  uint32_t change = 0;
};

struct Event {
  std::string data;
  std::vector<Entry> entries;
  int error = 0;
  std::string call;
  std::string path;
  uint64_t hole = 0;
  bool changed = false;
};

inline ProtobufCBinaryData ToBytes(const std::string& string) {
  return {string.size(), reinterpret_cast<uint8_t*>(const_cast<char*>(string.data()))};
}

inline std::string ToString(const ProtobufCBinaryData& data) {
  return {reinterpret_cast<const char*>(data.data), data.len};
}

inline std::string Encode(const Request& request) {
  Embervm__Agent__V1__FileRequest message = EMBERVM__AGENT__V1__FILE_REQUEST__INIT;
  message.path = ToBytes(request.path);
  message.target = ToBytes(request.target);
  message.data = ToBytes(request.data);
  message.flags = request.flags;
  message.mode = request.mode;
  message.uid = request.uid;
  message.gid = request.gid;
  message.mtime_ns = request.mtime_ns;
  message.offset = request.offset;
  message.length = request.length;
  std::string packed(protobuf_c_message_get_packed_size(&message.base), '\0');
  protobuf_c_message_pack(&message.base, reinterpret_cast<uint8_t*>(packed.data()));
  return packed;
}

inline Event Decode(const std::string& bytes) {
  auto* message = embervm__agent__v1__file_event__unpack(
      nullptr, bytes.size(), reinterpret_cast<const uint8_t*>(bytes.data()));
  REQUIRE(message != nullptr);
  Event event{.data = ToString(message->data),
              .error = message->error_number,
              .call = message->call,
              .path = ToString(message->path),
              .hole = message->hole,
              .changed = message->changed != 0};
  for (size_t i = 0; i < message->n_entries; i++) {
    const auto* info = message->entries[i];
    event.entries.push_back({.name = ToString(info->name),
                             .mode = info->mode,
                             .size = info->size,
                             .mtime_ns = info->mtime_ns,
                             .uid = info->uid,
                             .gid = info->gid,
                             .links = info->links,
                             .target = ToString(info->target),
                             .change = info->change});
  }
  embervm__agent__v1__file_event__free_unpacked(message, nullptr);
  return event;
}

// A streaming call on a connection of its own.
class Stream {
 public:
  Stream(const AgentProcess& agent, const std::string& method, const Request& request)
      : client_(agent.Connect()), id_(client_.NextStream()) {
    REQUIRE(client_.Send(
        EncodeFrame({id_, kRequest, kRemoteOpen, EncodeRequest(kFiles, method, Encode(request))})));
  }

  bool Send(const Request& request) {
    return client_.Send(EncodeFrame({id_, kData, 0, Encode(request)}));
  }
  bool End() { return client_.Send(EncodeFrame({id_, kData, kRemoteClosed | kNoData, {}})); }
  void Close() { client_.Close(); }

  // Nothing at the end.
  std::optional<Event> Next(int timeout_ms = 10'000) {
    const std::optional<Frame> frame = client_.Receive(timeout_ms);
    REQUIRE(frame.has_value());
    REQUIRE(frame->stream == id_);
    if (frame->type == kResponse) {
      code = DecodeResponse(*frame).code;
      return std::nullopt;
    }
    if ((frame->flags & kRemoteClosed) != 0) {
      return std::nullopt;
    }
    return Decode(frame->data);
  }
  std::vector<Event> Rest() {
    std::vector<Event> events;
    while (std::optional<Event> event = Next()) {
      events.push_back(*std::move(event));
    }
    return events;
  }
  bool Quiet(int milliseconds) { return !client_.Receive(milliseconds).has_value(); }

  int code = 0;

 private:
  Client client_;
  uint32_t id_;
};

struct Fixture {
  TemporaryDirectory outside;
  std::string root = outside.path() + "/root";
  // The agent keeps the pointer to the path.
  bool made = mkdir(root.c_str(), 0755) == 0;
  AgentProcess agent{root.c_str()};
  Client control{agent.Connect()};

  std::string Host(const std::string& path) const { return root + path; }
  void Write(const std::string& path, const std::string& content) const {
    std::filesystem::create_directories(std::filesystem::path(Host(path)).parent_path());
    std::ofstream(Host(path), std::ios::binary) << content;
  }
  std::string Read(const std::string& path) const {
    std::ifstream file(Host(path), std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  bool Exists(const std::string& path) const {
    struct stat status;
    return lstat(Host(path).c_str(), &status) == 0;
  }
  struct stat Status(const std::string& path) const {
    struct stat status{};
    REQUIRE(lstat(Host(path).c_str(), &status) == 0);
    return status;
  }

  Event Unary(const std::string& method, const Request& request) {
    const Answer answer = control.Call(kFiles, method, Encode(request));
    REQUIRE(answer.code == 0);
    return Decode(answer.payload);
  }
  int Error(const std::string& method, const Request& request) {
    return Unary(method, request).error;
  }
  // All events but the last, which is empty or the failure.
  std::vector<Event> Run(const std::string& method, const Request& request, Event& last) {
    Stream stream(agent, method, request);
    REQUIRE(stream.End());
    std::vector<Event> events = stream.Rest();
    REQUIRE(stream.code == 0);
    REQUIRE(!events.empty());
    last = events.back();
    events.pop_back();
    return events;
  }
  int RunError(const std::string& method, const Request& request) {
    Event last;
    Run(method, request, last);
    return last.error;
  }
  std::string ReadAll(const Request& request, int expected = 0) {
    Event last;
    std::string content;
    for (const Event& event : Run("Read", request, last)) {
      CHECK(event.data.size() <= 65536);
      content += event.data;
    }
    CHECK(last.error == expected);
    return content;
  }
  int WriteAll(const Request& first, const std::vector<std::string>& rest = {}) {
    Stream stream(agent, "Write", first);
    for (const std::string& data : rest) {
      stream.Send({.data = data});
    }
    stream.End();
    const std::vector<Event> events = stream.Rest();
    REQUIRE(events.size() == 1);
    return events[0].error;
  }
};

}  // namespace embervm::agent_test::files
