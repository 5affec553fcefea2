// FuseClient: writes FUSE messages as a guest's kernel does and reads the answers. Where
// they go is the test's choice: straight into a server, or through a virtqueue.
#ifndef EMBERVM_TEST_SUPPORT_FUSE_CLIENT_H_
#define EMBERVM_TEST_SUPPORT_FUSE_CLIENT_H_

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "devices/fs/limits.h"
#include "devices/fs/protocol.h"
#include "devices/fs/server.h"

namespace embervm::test {

namespace fs = devices::fs;

// The parts of a message, one after the other.
class FuseBody {
 public:
  template <class T>
    requires std::is_trivially_copyable_v<T> && (!std::is_pointer_v<T>)
  FuseBody& Add(const T& value) {
    const auto bytes = AsBytes(value);
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    return *this;
  }
  FuseBody& Text(std::string_view text) { return Raw(text).Add(std::uint8_t{0}); }
  FuseBody& Raw(std::string_view text) {
    const auto bytes = std::as_bytes(std::span(text));
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    return *this;
  }
  [[nodiscard]] const std::vector<std::byte>& bytes() const { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

struct FuseReply {
  // Positive, as errno.
  int error = 0;
  std::vector<std::byte> bytes;

  template <class T>
  [[nodiscard]] T As(std::size_t offset = 0) const {
    REQUIRE(bytes.size() >= offset + sizeof(T));
    return LoadLe<T>(bytes, offset);
  }
  [[nodiscard]] std::string text() const {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
};

class FuseClient {
 public:
  // Gives the message; returns what was written of so many bytes.
  using Exchange =
      std::function<std::vector<std::byte>(std::span<const std::byte> message, std::size_t room)>;

  explicit FuseClient(Exchange exchange) : exchange_(std::move(exchange)) {}

  [[nodiscard]] std::vector<std::byte> Message(fs::Opcode opcode, std::uint64_t node,
                                               const FuseBody& body = {}) {
    fs::InHeader header{};
    header.len = static_cast<std::uint32_t>(sizeof(header) + body.bytes().size());
    header.opcode = static_cast<std::uint32_t>(opcode);
    header.unique = ++unique_;
    header.nodeid = node;
    header.uid = uid;
    header.gid = gid;
    FuseBody message;
    message.Add(header);
    std::vector<std::byte> bytes = message.bytes();
    bytes.insert(bytes.end(), body.bytes().begin(), body.bytes().end());
    return bytes;
  }
  [[nodiscard]] FuseReply Parse(const std::vector<std::byte>& bytes) const {
    const auto header = LoadLe<fs::OutHeader>(bytes);
    REQUIRE(header.len == bytes.size());
    REQUIRE(header.unique == unique_);
    REQUIRE(header.error <= 0);
    return {.error = -header.error, .bytes = {bytes.begin() + sizeof(fs::OutHeader), bytes.end()}};
  }
  FuseReply Call(fs::Opcode opcode, std::uint64_t node, const FuseBody& body = {},
                 std::size_t room = 4096) {
    const std::vector<std::byte> message = Message(opcode, node, body);
    const std::vector<std::byte> answer = exchange_(message, sizeof(fs::OutHeader) + room);
    REQUIRE(answer.size() >= sizeof(fs::OutHeader));
    return Parse(answer);
  }
  void Send(fs::Opcode opcode, std::uint64_t node, const FuseBody& body = {}) {
    REQUIRE(exchange_(Message(opcode, node, body), 0).empty());
  }

  FuseReply Init(std::uint32_t flags = ~0U) {
    return Call(fs::Opcode::kInit, 0,
                FuseBody().Add(
                    fs::InitIn{.major = 7, .minor = 36, .max_readahead = 131072, .flags = flags}));
  }
  FuseReply Lookup(std::uint64_t directory, std::string_view name) {
    return Call(fs::Opcode::kLookup, directory, FuseBody().Text(name));
  }
  // The node of a path, component by component; every one has to be there.
  std::uint64_t Walk(std::initializer_list<std::string_view> path) {
    std::uint64_t node = fs::kRootId;
    for (const std::string_view name : path) {
      const FuseReply found = Lookup(node, name);
      REQUIRE(found.error == 0);
      node = found.As<fs::EntryOut>().nodeid;
    }
    return node;
  }
  FuseReply Create(std::uint64_t directory, std::string_view name, std::uint32_t flags = O_RDWR,
                   std::uint32_t mode = 0644) {
    return Call(
        fs::Opcode::kCreate, directory,
        FuseBody()
            .Add(fs::CreateIn{.flags = flags, .mode = mode | S_IFREG, .umask = 0, .open_flags = 0})
            .Text(name));
  }
  FuseReply Mkdir(std::uint64_t directory, std::string_view name, std::uint32_t mode = 0755) {
    return Call(fs::Opcode::kMkdir, directory,
                FuseBody().Add(fs::MkdirIn{.mode = mode, .umask = 0}).Text(name));
  }
  FuseReply Symlink(std::uint64_t directory, std::string_view name, std::string_view target) {
    return Call(fs::Opcode::kSymlink, directory, FuseBody().Text(name).Text(target));
  }
  FuseReply Open(std::uint64_t node, std::uint32_t flags = O_RDONLY) {
    return Call(fs::Opcode::kOpen, node,
                FuseBody().Add(fs::OpenIn{.flags = flags, .open_flags = 0}));
  }
  std::uint64_t Handle(std::uint64_t node, std::uint32_t flags = O_RDONLY) {
    const FuseReply opened = Open(node, flags);
    REQUIRE(opened.error == 0);
    return opened.As<fs::OpenOut>().handle;
  }
  FuseReply Read(std::uint64_t node, std::uint64_t handle, std::uint64_t offset,
                 std::uint32_t size) {
    fs::ReadIn in{};
    in.handle = handle;
    in.offset = offset;
    in.size = size;
    return Call(fs::Opcode::kRead, node, FuseBody().Add(in), size);
  }
  FuseReply Write(std::uint64_t node, std::uint64_t handle, std::uint64_t offset,
                  std::string_view data) {
    fs::WriteIn in{};
    in.handle = handle;
    in.offset = offset;
    in.size = static_cast<std::uint32_t>(data.size());
    return Call(fs::Opcode::kWrite, node, FuseBody().Add(in).Raw(data));
  }
  FuseReply Release(std::uint64_t node, std::uint64_t handle) {
    fs::ReleaseIn in{};
    in.handle = handle;
    return Call(fs::Opcode::kRelease, node, FuseBody().Add(in));
  }
  FuseReply Setattr(std::uint64_t node, const fs::SetattrIn& in) {
    return Call(fs::Opcode::kSetattr, node, FuseBody().Add(in));
  }
  fs::Attributes Attributes(std::uint64_t node) {
    const FuseReply got = Call(fs::Opcode::kGetattr, node, FuseBody().Add(fs::GetattrIn{}));
    REQUIRE(got.error == 0);
    return got.As<fs::AttributesOut>().attributes;
  }

  std::uint32_t uid = 0;
  std::uint32_t gid = 0;

 private:
  Exchange exchange_;
  std::uint64_t unique_ = 0;
};

// Messages straight into a server, from memory of exactly their size: a sanitizer sees
// every byte that is read or written beyond.
class FuseServerClient : public FuseClient {
 public:
  explicit FuseServerClient(fs::Server& server)
      : FuseClient([this, &server](std::span<const std::byte> message, std::size_t room) {
          std::vector<std::byte> in(message.begin(), message.end());
          std::vector<std::byte> out(room);
          const virtio::Segment readable{.iov_base = in.data(), .iov_len = in.size()};
          const virtio::Segment writable{.iov_base = out.data(), .iov_len = out.size()};
          const auto outcome = server.Handle({&readable, 1}, {&writable, 1});
          waiting = outcome.waiting;
          out.resize(outcome.used_length);
          return out;
        }) {}

  // Of the last message: the lock that it waits for.
  std::optional<std::uint64_t> waiting;
};

}  // namespace embervm::test

#endif  // EMBERVM_TEST_SUPPORT_FUSE_CLIENT_H_
