// The Files service against real files of this machine, below a directory that is
// the workload's root.
#include "files.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <functional>
#include <set>

#include "client.h"
#include "files.pb-c.h"

namespace embervm::agent_test {
namespace {

constexpr char kFiles[] = "embervm.agent.v1.Files";
constexpr int kInvalidArgument = 3;
constexpr uint32_t kRecursive = EMBERVM__AGENT__V1__FILE_FLAG__FILE_FLAG_RECURSIVE;
constexpr uint32_t kNoFollow = EMBERVM__AGENT__V1__FILE_FLAG__FILE_FLAG_NO_FOLLOW;
constexpr uint32_t kAppend = EMBERVM__AGENT__V1__FILE_FLAG__FILE_FLAG_APPEND;
constexpr uint32_t kExclusive = EMBERVM__AGENT__V1__FILE_FLAG__FILE_FLAG_EXCLUSIVE;
constexpr uint32_t kReplace = EMBERVM__AGENT__V1__FILE_FLAG__FILE_FLAG_REPLACE;
constexpr uint32_t kSetMode = EMBERVM__AGENT__V1__FILE_FLAG__FILE_FLAG_SET_MODE;
constexpr uint32_t kSetOwner = EMBERVM__AGENT__V1__FILE_FLAG__FILE_FLAG_SET_OWNER;
constexpr uint32_t kSetTime = EMBERVM__AGENT__V1__FILE_FLAG__FILE_FLAG_SET_TIME;
constexpr uint32_t kSparse = EMBERVM__AGENT__V1__FILE_FLAG__FILE_FLAG_SPARSE;

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

ProtobufCBinaryData ToBytes(const std::string& string) {
  return {string.size(), reinterpret_cast<uint8_t*>(const_cast<char*>(string.data()))};
}

std::string ToString(const ProtobufCBinaryData& data) {
  return {reinterpret_cast<const char*>(data.data), data.len};
}

std::string Encode(const Request& request) {
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

Event Decode(const std::string& bytes) {
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

TEST_CASE_FIXTURE(Fixture, "files: stat tells what a file is") {
  Write("/a", "hello");
  chmod(Host("/a").c_str(), 0640);
  REQUIRE(symlink("a", Host("/link").c_str()) == 0);
  const Event file = Unary("Stat", {.path = "/a"});
  REQUIRE(file.error == 0);
  REQUIRE(file.entries.size() == 1);
  CHECK(file.entries[0].mode == (S_IFREG | 0640));
  CHECK(file.entries[0].size == 5);
  CHECK(file.entries[0].links == 1);
  CHECK(file.entries[0].mtime_ns / 1'000'000'000 == Status("/a").st_mtim.tv_sec);
  CHECK(Unary("Stat", {.path = "/link"}).entries[0].mode == (S_IFREG | 0640));
  CHECK(S_ISLNK(Unary("Stat", {.path = "/link", .flags = kNoFollow}).entries[0].mode));
  CHECK(S_ISDIR(Unary("Stat", {.path = "/"}).entries[0].mode));
  const Event missing = Unary("Stat", {.path = "/missing"});
  CHECK(missing.error == ENOENT);
  CHECK(missing.call == "open");
  CHECK(missing.entries.empty());
}

TEST_CASE_FIXTURE(Fixture, "files: bad paths are refused by every method") {
  Write("/a", "x");
  for (const char* method :
       {"Stat", "ReadLink", "MakeDirectory", "Remove", "Rename", "MakeSymlink", "SetAttributes"}) {
    CAPTURE(method);
    CHECK(Error(method, {.path = "", .target = "/b"}) == EINVAL);
    CHECK(Error(method, {.path = "a", .target = "/b"}) == EINVAL);
    CHECK(Error(method, {.path = std::string("/a\0b", 4), .target = "/b"}) == EINVAL);
    CHECK(Error(method, {.path = "/" + std::string(5000, 'x'), .target = "/b"}) == ENAMETOOLONG);
    CHECK(Error(method, {.path = "/" + std::string(300, 'x'), .target = "/b"}) == ENAMETOOLONG);
  }
  for (const char* method : {"Read", "Write", "List", "RemoveTree", "Copy", "Watch"}) {
    CAPTURE(method);
    CHECK(RunError(method, {.path = "", .target = "/b"}) == EINVAL);
    CHECK(RunError(method, {.path = "a", .target = "/b"}) == EINVAL);
    CHECK(RunError(method, {.path = std::string("/a\0b", 4), .target = "/b"}) == EINVAL);
  }
  CHECK(Error("Rename", {.path = "/a", .target = "b"}) == EINVAL);
  CHECK(RunError("Copy", {.path = "/a", .target = "b"}) == EINVAL);
  CHECK(Error("MakeSymlink", {.path = "/l", .target = ""}) == EINVAL);
  CHECK(Error("MakeSymlink", {.path = "/l", .target = std::string("a\0b", 3)}) == EINVAL);
  CHECK(control.Call(kFiles, "Stat", "\xff\xff").code == kInvalidArgument);
}

TEST_CASE_FIXTURE(Fixture, "files: no link leads out of the root") {
  const std::string secret = outside.path() + "/secret";
  outside.Write("secret", "secret", 0600);
  REQUIRE(symlink(secret.c_str(), Host("/absolute").c_str()) == 0);
  REQUIRE(symlink("../secret", Host("/relative").c_str()) == 0);
  REQUIRE(symlink("..", Host("/up").c_str()) == 0);
  REQUIRE(symlink(outside.path().c_str(), Host("/directory").c_str()) == 0);
  for (const char* path : {"/absolute", "/relative", "/up/secret", "/directory/secret",
                           "/../secret", "/up/../../secret"}) {
    CAPTURE(path);
    CHECK(Error("Stat", {.path = path}) == ENOENT);
    CHECK(ReadAll({.path = path}, ENOENT).empty());
    CHECK(RunError("Copy", {.path = path, .target = "/copy"}) == ENOENT);
    CHECK(Error("SetAttributes", {.path = path, .flags = kSetMode, .mode = 0777}) == ENOENT);
  }
  // Writing makes a file inside, or none.
  WriteAll({.path = "/up/made", .data = "x"});
  CHECK(Read("/made") == "x");
  CHECK(WriteAll({.path = "/directory/made", .data = "x"}) == ENOENT);
  CHECK(WriteAll({.path = "/absolute", .data = "x"}) == ENOENT);
  CHECK(Error("MakeDirectory", {.path = "/directory/made"}) == ENOENT);
  CHECK(Error("Rename", {.path = "/made", .target = "/up/../renamed"}) == 0);
  CHECK(Exists("/renamed"));
  CHECK(Error("Remove", {.path = "/up/secret"}) == ENOENT);
  std::ifstream untouched(secret);
  CHECK(std::string(std::istreambuf_iterator<char>(untouched), {}) == "secret");
  struct stat status{};
  REQUIRE(stat(secret.c_str(), &status) == 0);
  CHECK((status.st_mode & 07777) == 0600);
}

TEST_CASE_FIXTURE(Fixture, "files: the root itself is not to be removed, moved or replaced") {
  Write("/a", "x");
  for (const char* path : {"/", "//", "/.", "/..", "/a/..", "/./", "/../.."}) {
    CAPTURE(path);
    CHECK(Error("Remove", {.path = path}) == EBUSY);
    CHECK(RunError("RemoveTree", {.path = path}) == EBUSY);
    CHECK(Error("Rename", {.path = path, .target = "/b"}) == EBUSY);
    CHECK(Error("Rename", {.path = "/a", .target = path}) == EBUSY);
  }
  CHECK(Read("/a") == "x");
}

TEST_CASE_FIXTURE(Fixture, "files: directories are made one by one or with their parents") {
  CHECK(Error("MakeDirectory", {.path = "/one"}) == 0);
  CHECK((Status("/one").st_mode & 07777) == 0755);
  CHECK(Error("MakeDirectory", {.path = "/one"}) == EEXIST);
  CHECK(Error("MakeDirectory", {.path = "/"}) == EEXIST);
  CHECK(Error("MakeDirectory", {.path = "/no/two"}) == ENOENT);
  const Request deep{.path = "/one/two//three/", .flags = kRecursive | kSetMode, .mode = 01777};
  CHECK(Error("MakeDirectory", deep) == 0);
  CHECK(Error("MakeDirectory", deep) == 0);
  CHECK((Status("/one/two/three").st_mode & 07777) == 01777);
  CHECK((Status("/one/two").st_mode & 07777) == 0755);
  Write("/file", "x");
  CHECK(Error("MakeDirectory", {.path = "/file", .flags = kRecursive}) == EEXIST);
  CHECK(Error("MakeDirectory", {.path = "/file/below", .flags = kRecursive}) == ENOTDIR);
  REQUIRE(symlink("one", Host("/link").c_str()) == 0);
  CHECK(Error("MakeDirectory", {.path = "/link/../new/a", .flags = kRecursive}) == 0);
  CHECK(Exists("/new/a"));
}

TEST_CASE_FIXTURE(Fixture, "files: remove, rename, links and attributes") {
  Write("/a", "x");
  CHECK(Error("MakeSymlink", {.path = "/l", .target = "/a"}) == 0);
  CHECK(Error("MakeSymlink", {.path = "/l", .target = "/a"}) == EEXIST);
  CHECK(Unary("ReadLink", {.path = "/l"}).data == "/a");
  CHECK(Error("ReadLink", {.path = "/a"}) == EINVAL);
  CHECK(Error("ReadLink", {.path = "/none"}) == ENOENT);
  const std::string longest(4000, 'y');
  CHECK(Error("MakeSymlink", {.path = "/long", .target = longest}) == 0);
  CHECK(Unary("ReadLink", {.path = "/long"}).data == longest);

  CHECK(Error("SetAttributes", {.path = "/l", .flags = kSetMode, .mode = 04711}) == 0);
  CHECK((Status("/a").st_mode & 07777) == 04711);
  CHECK(Error("SetAttributes", {.path = "/l",
                                .flags = kSetOwner | kSetTime | kNoFollow,
                                .uid = 7,
                                .gid = 8,
                                .mtime_ns = -1}) == 0);
  CHECK(Status("/l").st_uid == 7);
  CHECK(Status("/l").st_mtim.tv_sec == -1);
  CHECK(Status("/l").st_mtim.tv_nsec == 999'999'999);
  CHECK(Unary("Stat", {.path = "/l", .flags = kNoFollow}).entries[0].mtime_ns == -1);
  CHECK(Status("/a").st_uid == 0);
  CHECK(Error("SetAttributes", {.path = "/none", .flags = kSetMode}) == ENOENT);
  REQUIRE(mkfifo(Host("/fifo").c_str(), 0600) == 0);
  CHECK(Error("SetAttributes", {.path = "/fifo", .flags = kSetMode, .mode = 0666}) == 0);
  CHECK((Status("/fifo").st_mode & 07777) == 0666);

  CHECK(Error("Rename", {.path = "/a", .target = "/b"}) == 0);
  CHECK(Error("Rename", {.path = "/a", .target = "/b"}) == ENOENT);
  CHECK(Read("/b") == "x");
  Write("/d/f", "y");
  CHECK(Error("Remove", {.path = "/d"}) == ENOTEMPTY);
  CHECK(Error("Remove", {.path = "/d/f/"}) == 0);
  CHECK(Error("Remove", {.path = "/d"}) == 0);
  CHECK(Error("Remove", {.path = "/d"}) == ENOENT);
  CHECK(Error("Remove", {.path = "/l"}) == 0);
  CHECK(Read("/b") == "x");
}

TEST_CASE_FIXTURE(Fixture, "files: what is read is what is there") {
  std::string content(300'000, '\0');
  for (size_t i = 0; i < content.size(); i++) {
    content[i] = static_cast<char>(i * 7 + i / 251);
  }
  Write("/big", content);
  Write("/empty", "");
  CHECK((ReadAll({.path = "/big"}) == content));
  CHECK(ReadAll({.path = "/empty"}).empty());
  CHECK((ReadAll({.path = "/big", .offset = 299'990}) == content.substr(299'990)));
  CHECK((ReadAll({.path = "/big", .offset = 1000, .length = 70'000}) ==
         content.substr(1000, 70'000)));
  CHECK(ReadAll({.path = "/big", .offset = 400'000}).empty());
  CHECK(ReadAll({.path = "/big", .offset = UINT64_MAX}, EINVAL).empty());
  ReadAll({.path = "/"}, EISDIR);
  ReadAll({.path = "/none"}, ENOENT);
  ReadAll({.path = "/big/x"}, ENOTDIR);
  REQUIRE(mkfifo(Host("/fifo").c_str(), 0600) == 0);
  ReadAll({.path = "/fifo"}, ENXIO);
  REQUIRE(mknod(Host("/zero").c_str(), S_IFCHR | 0600, makedev(1, 5)) == 0);
  ReadAll({.path = "/zero"}, ENXIO);
}

TEST_CASE_FIXTURE(Fixture, "files: a slow reader holds the agent's memory and nobody else") {
  const std::string chunk(1 << 20, 'x');
  for (int i = 0; i < 64; i++) {
    std::ofstream(Host("/large"), std::ios::binary | std::ios::app) << chunk;
  }
  const size_t before = agent.ResidentKib();
  Stream slow(agent, "Read", {.path = "/large"});
  Stream other(agent, "Read", {.path = "/large"});
  size_t read = 0;
  for (int i = 0; i < 20; i++) {
    const std::optional<Event> event = slow.Next();
    REQUIRE(event.has_value());
    read += event->data.size();
    CHECK(Error("Stat", {.path = "/large"}) == 0);
  }
  CHECK(read == 20 * 60 * 1024);
  CHECK(agent.ResidentKib() < before + 2048);
  while (std::optional<Event> event = slow.Next()) {
    read += event->data.size();
  }
  CHECK(read == chunk.size() * 64);
  CHECK(agent.ResidentKib() < before + 2048);
}

TEST_CASE_FIXTURE(Fixture, "files: write makes, replaces, appends") {
  CHECK(WriteAll({.path = "/a", .data = "one"}, {" two", " three"}) == 0);
  CHECK(Read("/a") == "one two three");
  CHECK((Status("/a").st_mode & 07777) == 0644);
  CHECK(WriteAll({.path = "/a", .data = "1", .flags = kSetMode, .mode = 0755}) == 0);
  CHECK(Read("/a") == "1");
  CHECK((Status("/a").st_mode & 07777) == 0755);
  CHECK(WriteAll({.path = "/a", .data = "2", .flags = kAppend}) == 0);
  CHECK(Read("/a") == "12");
  CHECK(WriteAll({.path = "/a", .flags = kExclusive}) == EEXIST);
  CHECK(WriteAll({.path = "/empty"}) == 0);
  CHECK(Status("/empty").st_size == 0);
  CHECK(WriteAll({.path = "/no/a", .data = "x"}, {"y", "z"}) == ENOENT);
  CHECK(WriteAll({.path = "/"}) == EISDIR);
  REQUIRE(mknod(Host("/null").c_str(), S_IFCHR | 0600, makedev(1, 3)) == 0);
  CHECK(WriteAll({.path = "/null", .data = "x"}) == ENXIO);
  Stream big(agent, "Write", {.path = "/big", .data = std::string(65537, 'x')});
  big.Rest();
  CHECK(big.code == kInvalidArgument);
}

TEST_CASE("files: a full disk is an error with its number") {
  if (access("/dev/full", W_OK) != 0) {
    return;
  }
  Fixture fixture;
  const std::string mount = "mount -t tmpfs -o size=256k none " + fixture.Host("/full");
  REQUIRE(mkdir(fixture.Host("/full").c_str(), 0755) == 0);
  REQUIRE(std::system(mount.c_str()) == 0);
  const std::vector<std::string> data(16, std::string(60'000, 'x'));
  CHECK(fixture.WriteAll({.path = "/full/a"}, data) == ENOSPC);
  fixture.Write("/source", std::string(400'000, 'y'));
  CHECK(fixture.RunError("Copy", {.path = "/source", .target = "/full/b"}) == ENOSPC);
  CHECK(std::system(("umount -l " + fixture.Host("/full")).c_str()) == 0);
}

TEST_CASE_FIXTURE(Fixture, "files: a tree is written entry by entry") {
  Write("/target/old", "old");
  REQUIRE(link(Host("/target/old").c_str(), Host("/other").c_str()) == 0);
  Write("/elsewhere", "untouched");
  REQUIRE(symlink("../elsewhere", Host("/target/link").c_str()) == 0);
  const uint32_t all = kReplace | kSetMode | kSetTime;
  Stream stream(agent, "Write", {.path = "/target", .flags = kReplace, .mode = S_IFDIR});
  stream.Send({.path = "/target/old",
               .data = "ne",
               .flags = all,
               .mode = S_IFREG | 0600,
               .mtime_ns = 5'000'000'001});
  stream.Send({.data = "w"});
  stream.Send({.path = "/target/link", .data = "file", .flags = all, .mode = S_IFREG | 0644});
  stream.Send({.path = "/target/sub", .flags = kReplace, .mode = S_IFDIR});
  stream.Send({.path = "/target/sub/s",
               .target = "../old",
               .flags = all,
               .mode = S_IFLNK,
               .mtime_ns = 7'000'000'000});
  stream.Send(
      {.path = "/target/sub", .flags = all, .mode = S_IFDIR | 0500, .mtime_ns = 9'000'000'000});
  stream.End();
  const std::vector<Event> events = stream.Rest();
  REQUIRE(events.size() == 1);
  CHECK(events[0].error == 0);
  CHECK(Read("/target/old") == "new");
  CHECK((Status("/target/old").st_mode & 07777) == 0600);
  CHECK(Status("/target/old").st_mtim.tv_sec == 5);
  CHECK(Status("/target/old").st_mtim.tv_nsec == 1);
  // Replaced, not written through.
  CHECK(Read("/other") == "old");
  CHECK(Read("/elsewhere") == "untouched");
  CHECK(S_ISREG(Status("/target/link").st_mode));
  CHECK(S_ISLNK(Status("/target/sub/s").st_mode));
  CHECK(Status("/target/sub/s").st_mtim.tv_sec == 7);
  CHECK((Status("/target/sub").st_mode & 07777) == 0500);
  CHECK(Status("/target/sub").st_mtim.tv_sec == 9);

  CHECK(WriteAll({.path = "/target", .flags = kReplace, .mode = S_IFREG}) == EISDIR);
  CHECK(WriteAll({.path = "/other", .flags = kReplace, .mode = S_IFDIR}) == ENOTDIR);
  CHECK(WriteAll({.path = "/dev", .flags = kReplace, .mode = S_IFCHR}) == ENXIO);
  CHECK(WriteAll({.path = "/d", .flags = kReplace, .mode = S_IFDIR}, {"x"}) == EBADF);
}

TEST_CASE_FIXTURE(Fixture, "files: a large directory is listed in batches") {
  mkdir(Host("/many").c_str(), 0755);
  std::set<std::string> expected;
  for (int i = 0; i < 2500; i++) {
    const std::string name = "file-" + std::to_string(i) + std::string(i % 200, 'n');
    Write("/many/" + name, std::string(i % 3, 'x'));
    expected.insert(name);
  }
  Event last;
  std::set<std::string> names;
  const std::vector<Event> events = Run("List", {.path = "/many"}, last);
  CHECK(last.error == 0);
  CHECK(events.size() > 30);
  for (const Event& event : events) {
    CHECK(event.entries.size() <= 64);
    for (const Entry& entry : event.entries) {
      CHECK(names.insert(entry.name).second);
      CHECK(S_ISREG(entry.mode));
    }
  }
  CHECK((names == expected));
  CHECK(RunError("List", {.path = "/many/file-0"}) == ENOTDIR);
  CHECK(RunError("List", {.path = "/none"}) == ENOENT);
  Event empty;
  mkdir(Host("/empty").c_str(), 0755);
  CHECK(Run("List", {.path = "/empty"}, empty).empty());
  CHECK(empty.error == 0);
}

TEST_CASE_FIXTURE(Fixture, "files: a tree is removed, deep and wide, and nothing beside it") {
  Write("/keep/file", "keep");
  std::string deep = "/tree";
  for (int i = 0; i < 300; i++) {
    deep += "/d";
  }
  Write(deep + "/leaf", "x");
  for (int i = 0; i < 1500; i++) {
    Write("/tree/wide/" + std::to_string(i), "");
    if (i % 100 == 0) {
      Write("/tree/dirs/" + std::to_string(i) + "/f", "");
    }
  }
  REQUIRE(symlink("/keep", Host("/tree/link").c_str()) == 0);
  REQUIRE(symlink("../keep", Host("/tree/wide/link").c_str()) == 0);
  const size_t descriptors = agent.OpenDescriptors();
  CHECK(RunError("RemoveTree", {.path = "/tree"}) == 0);
  CHECK(!Exists("/tree"));
  CHECK(Read("/keep/file") == "keep");
  CHECK(agent.ReturnsToDescriptors(descriptors));
  CHECK(RunError("RemoveTree", {.path = "/tree"}) == ENOENT);
  REQUIRE(symlink("/keep", Host("/link").c_str()) == 0);
  CHECK(RunError("RemoveTree", {.path = "/link"}) == 0);
  CHECK(Read("/keep/file") == "keep");
}

TEST_CASE_FIXTURE(Fixture, "files: who closes the connection ends the job") {
  for (int i = 0; i < 3000; i++) {
    Write("/tree/" + std::to_string(i), "");
  }
  const size_t descriptors = agent.OpenDescriptors();
  {
    Stream reading(agent, "Read", {.path = "/tree", .flags = kRecursive});
    REQUIRE(reading.Next().has_value());
    Stream watching(agent, "Watch", {.path = "/tree"});
    REQUIRE(watching.Next().has_value());
    Stream writing(agent, "Write", {.path = "/written", .data = "x"});
  }
  CHECK(agent.ReturnsToDescriptors(descriptors));
}

TEST_CASE_FIXTURE(Fixture, "files: a tree is read depth first, each entry with its content") {
  Write("/t/a", std::string(100'000, 'a'));
  Write("/t/sub/b", "b");
  Write("/t/empty", "");
  REQUIRE(symlink("../x", Host("/t/link").c_str()) == 0);
  REQUIRE(mkfifo(Host("/t/fifo").c_str(), 0600) == 0);
  Event last;
  std::string trace;
  std::string open;
  for (const Event& event : Run("Read", {.path = "/t", .flags = kRecursive}, last)) {
    if (!event.entries.empty()) {
      REQUIRE(event.entries.size() == 1);
      const Entry& entry = event.entries[0];
      open = entry.name;
      if (entry.name == "sub") {
        trace += "sub(";
      } else if (entry.mode == 0) {
        trace += ")";
      } else if (entry.name == "link") {
        CHECK(entry.target == "../x");
      } else if (entry.name == "fifo") {
        CHECK(S_ISFIFO(entry.mode));
      }
      continue;
    }
    if (open == "b") {
      trace += event.data;
    } else {
      CHECK(open == "a");
    }
  }
  CHECK(last.error == 0);
  CHECK(trace == "sub(b)");
  Event single;
  const std::vector<Event> file = Run("Read", {.path = "/t/sub/b", .flags = kRecursive}, single);
  REQUIRE(file.size() == 2);
  CHECK(file[0].entries[0].name.empty());
  CHECK(file[1].data == "b");
}

TEST_CASE_FIXTURE(Fixture, "files: holes are told, and change during a read is noticed") {
  Write("/sparse", "begin");
  REQUIRE(truncate(Host("/sparse").c_str(), off_t{1} << 40) == 0);
  const int fd = open(Host("/sparse").c_str(), O_WRONLY);
  REQUIRE(pwrite(fd, "end", 3, (off_t{1} << 40) - 3) == 3);
  close(fd);
  Event last;
  uint64_t holes = 0;
  uint64_t bytes = 0;
  const Request sparse{.path = "/sparse", .flags = kRecursive | kSparse};
  for (const Event& event : Run("Read", sparse, last)) {
    holes += event.hole;
    bytes += event.data.size();
  }
  CHECK(holes + bytes == uint64_t{1} << 40);
  CHECK(bytes < 1 << 20);

  CHECK(RunError("Copy", {.path = "/sparse", .target = "/sparse2"}) == 0);
  CHECK(Status("/sparse2").st_size == off_t{1} << 40);
  CHECK(Status("/sparse2").st_blocks < 4096);

  const std::string chunk(1 << 20, 'x');
  for (int i = 0; i < 8; i++) {
    std::ofstream(Host("/log"), std::ios::binary | std::ios::app) << chunk;
  }
  Stream reading(agent, "Read", {.path = "/log", .flags = kRecursive});
  REQUIRE(reading.Next().has_value());
  std::ofstream(Host("/log"), std::ios::binary | std::ios::app) << "more";
  uint64_t read = 0;
  bool changed = false;
  for (const Event& event : reading.Rest()) {
    read += event.data.size();
    changed = changed || event.changed;
  }
  CHECK(read == chunk.size() * 8);
  CHECK(changed);
}

TEST_CASE_FIXTURE(Fixture, "files: copies keep modes, owners, times and links") {
  Write("/t/a", std::string(200'000, 'a'));
  Write("/t/sub/b", "b");
  REQUIRE(link(Host("/t/sub/b").c_str(), Host("/t/hard").c_str()) == 0);
  REQUIRE(symlink("nowhere", Host("/t/link").c_str()) == 0);
  REQUIRE(chmod(Host("/t/a").c_str(), 04750) == 0);
  REQUIRE(chown(Host("/t/sub/b").c_str(), 12, 34) == 0);
  REQUIRE(chmod(Host("/t/sub").c_str(), 0510) == 0);
  const timespec times[2] = {{100, 0}, {200, 300}};
  REQUIRE(utimensat(AT_FDCWD, Host("/t/sub").c_str(), times, 0) == 0);
  REQUIRE(utimensat(AT_FDCWD, Host("/t/a").c_str(), times, 0) == 0);
  CHECK(RunError("Copy", {.path = "/t", .target = "/c"}) == EISDIR);
  CHECK(RunError("Copy", {.path = "/t", .target = "/c", .flags = kRecursive}) == 0);
  CHECK((Read("/c/a") == Read("/t/a")));
  CHECK((Status("/c/a").st_mode & 07777) == 04750);
  CHECK(Status("/c/a").st_mtim.tv_nsec == 300);
  CHECK(Status("/c/sub/b").st_uid == 12);
  CHECK(Status("/c/hard").st_nlink == 1);
  CHECK((Status("/c/sub").st_mode & 07777) == 0510);
  CHECK(Status("/c/sub").st_mtim.tv_sec == 200);
  CHECK(S_ISLNK(Status("/c/link").st_mode));

  CHECK(RunError("Copy", {.path = "/t/a", .target = "/t/a"}) == EINVAL);
  CHECK(RunError("Copy", {.path = "/t", .target = "/t", .flags = kRecursive}) == EINVAL);
  CHECK(RunError("Copy", {.path = "/t", .target = "/t/x", .flags = kRecursive}) == EINVAL);
  CHECK(Read("/t/sub/b") == "b");
  CHECK(RunError("Copy", {.path = "/none", .target = "/x"}) == ENOENT);
  CHECK(RunError("Copy", {.path = "/t/a", .target = "/no/x"}) == ENOENT);
  CHECK(RunError("Copy", {.path = "/t/a", .target = "/t/sub"}) == EISDIR);

  const int listener = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string socket_path = Host("/s");
  REQUIRE(socket_path.size() < sizeof(address.sun_path));
  std::copy(socket_path.begin(), socket_path.end(), address.sun_path);
  REQUIRE(bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
  REQUIRE(mknod(Host("/dev").c_str(), S_IFCHR | 0600, makedev(1, 3)) == 0);
  CHECK(RunError("Copy", {.path = "/s", .target = "/x"}) == ENXIO);
  CHECK(RunError("Copy", {.path = "/dev", .target = "/x"}) == ENXIO);
  CHECK(!Exists("/x"));
  Event last;
  mkdir(Host("/special").c_str(), 0755);
  REQUIRE(rename(Host("/s").c_str(), Host("/special/s").c_str()) == 0);
  Run("Copy", {.path = "/special", .target = "/x", .flags = kRecursive}, last);
  CHECK(last.error == ENXIO);
  CHECK(last.path == "s");
  close(listener);
}

struct Change {
  std::string path;
  uint32_t change;
  bool operator==(const Change&) const = default;
};

// The changes of the next moment, without those of content and attributes.
std::vector<Change> Changes(Stream& stream, size_t count) {
  std::vector<Change> changes;
  while (changes.size() < count) {
    const std::optional<Event> event = stream.Next();
    REQUIRE(event.has_value());
    for (const Entry& entry : event->entries) {
      if ((entry.change & 6) == 0) {
        changes.push_back({entry.name, entry.change});
      }
    }
  }
  return changes;
}

TEST_CASE_FIXTURE(Fixture, "files: changes of a tree are told") {
  Write("/w/sub/old", "x");
  Write("/outside/x", "x");
  Stream flat(agent, "Watch", {.path = "/w"});
  Stream tree(agent, "Watch", {.path = "/w", .flags = kRecursive});
  REQUIRE(flat.Next().has_value());
  REQUIRE(tree.Next().has_value());
  Write("/w/new", "content");
  CHECK((Changes(flat, 1) == std::vector<Change>{{"new", 1}}));
  CHECK((Changes(tree, 1) == std::vector<Change>{{"new", 1}}));
  REQUIRE(unlink(Host("/w/sub/old").c_str()) == 0);
  CHECK((Changes(tree, 1) == std::vector<Change>{{"sub/old", 8}}));

  // A directory that comes with content, by a move.
  REQUIRE(rename(Host("/outside").c_str(), Host("/w/in").c_str()) == 0);
  CHECK((Changes(tree, 2) == std::vector<Change>{{"in", 1}, {"in/x", 1}}));
  Write("/w/in/y", "");
  CHECK((Changes(tree, 1) == std::vector<Change>{{"in/y", 1}}));
  // And one that leaves: what happens in it is nobody's business any more.
  REQUIRE(rename(Host("/w/in").c_str(), Host("/gone").c_str()) == 0);
  Write("/gone/z", "");
  REQUIRE(rename(Host("/w/sub").c_str(), Host("/w/bus").c_str()) == 0);
  CHECK((Changes(tree, 3) == std::vector<Change>{{"in", 8}, {"sub", 8}, {"bus", 1}}));
  Write("/w/bus/q", "");
  CHECK((Changes(tree, 1) == std::vector<Change>{{"bus/q", 1}}));
  CHECK((Changes(flat, 3) == std::vector<Change>{{"in", 1}, {"in", 8}, {"sub", 8}}));
}

TEST_CASE_FIXTURE(Fixture, "files: a file alone is watched, and its end told") {
  Write("/f", "x");
  Stream stream(agent, "Watch", {.path = "/f"});
  REQUIRE(stream.Next().has_value());
  std::ofstream(Host("/f"), std::ios::app) << "y";
  const std::optional<Event> event = stream.Next();
  REQUIRE(event.has_value());
  CHECK(event->entries[0].name.empty());
  CHECK(event->entries[0].change == 2);
  REQUIRE(unlink(Host("/f").c_str()) == 0);
  CHECK((Changes(stream, 1) == std::vector<Change>{{"", 8}}));
  CHECK(RunError("Watch", {.path = "/none"}) == ENOENT);
}

TEST_CASE_FIXTURE(Fixture, "files: too many changes for a reader are told as lost") {
  mkdir(Host("/w").c_str(), 0755);
  Stream stream(agent, "Watch", {.path = "/w"});
  REQUIRE(stream.Next().has_value());
  const size_t before = agent.ResidentKib();
  for (int i = 0; i < 30'000; i++) {
    const std::string path = Host("/w/" + std::string(100, 'n') + std::to_string(i % 10));
    close(open(path.c_str(), O_CREAT | O_WRONLY, 0600));
    unlink(path.c_str());
  }
  bool lost = false;
  while (!lost) {
    const std::optional<Event> event = stream.Next();
    REQUIRE(event.has_value());
    lost = !event->entries.empty() && event->entries[0].change == 16;
  }
  CHECK(agent.ResidentKib() < before + 2048);
}

}  // namespace
}  // namespace embervm::agent_test
