// The FUSE server: files, their content, attributes and locks.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include <cerrno>
#include <string>

#include "devices/fs/server.h"
#include "test/support/fs_fixture.h"
#include "test/support/fuse_client.h"

namespace embervm::devices::fs {
namespace {

using test::FsFixture;
using test::FuseBody;
using test::FuseReply;

TEST_CASE("fs: files and their data") {
  FsFixture f;
  const FuseReply made = f.client->Create(kRootId, "file", O_RDWR, 0640);
  REQUIRE(made.error == 0);
  const auto entry = made.As<EntryOut>();
  const std::uint64_t handle = made.As<OpenOut>(sizeof(EntryOut)).handle;
  CHECK(entry.attributes.mode == (S_IFREG | 0640));
  CHECK(f.client->Write(entry.nodeid, handle, 0, "hello world").As<WriteOut>().size == 11);
  CHECK(f.client->Read(entry.nodeid, handle, 6, 4096).text() == "world");
  CHECK(f.client->Read(entry.nodeid, handle, 100, 4096).text().empty());
  CHECK(f.GetFile("file") == "hello world");
  CHECK(f.client->Attributes(entry.nodeid).size == 11);

  FsyncIn sync{};
  sync.handle = handle;
  CHECK(f.client->Call(Opcode::kFsync, entry.nodeid, FuseBody().Add(sync)).error == 0);
  FlushIn flush{};
  flush.handle = handle;
  CHECK(f.client->Call(Opcode::kFlush, entry.nodeid, FuseBody().Add(flush)).error == 0);
  FallocateIn allocate{};
  allocate.handle = handle;
  allocate.length = 65536;
  CHECK(f.client->Call(Opcode::kFallocate, entry.nodeid, FuseBody().Add(allocate)).error == 0);
  CHECK(f.Stat("file").st_size == 65536);
  LseekIn seek{};
  seek.handle = handle;
  seek.whence = SEEK_HOLE;
  CHECK(f.client->Call(Opcode::kLseek, entry.nodeid, FuseBody().Add(seek)).As<LseekOut>().offset <=
        65536);
  seek.whence = SEEK_END;
  CHECK(f.client->Call(Opcode::kLseek, entry.nodeid, FuseBody().Add(seek)).error == EINVAL);

  const FuseReply copy = f.client->Create(kRootId, "copy");
  const std::uint64_t copy_node = copy.As<EntryOut>().nodeid;
  CopyFileRangeIn range{};
  range.in_handle = handle;
  range.out_nodeid = copy_node;
  range.out_handle = copy.As<OpenOut>(sizeof(EntryOut)).handle;
  range.length = 5;
  CHECK(f.client->Call(Opcode::kCopyFileRange, entry.nodeid, FuseBody().Add(range))
            .As<WriteOut>()
            .size == 5);
  CHECK(f.GetFile("copy") == "hello");

  CHECK(f.client->Release(entry.nodeid, handle).error == 0);
  CHECK(f.client->Read(entry.nodeid, handle, 0, 16).error == EBADF);
  CHECK(f.client->Release(entry.nodeid, handle).error == EBADF);
  CHECK(f.server->counters().written_bytes == 11);
}

TEST_CASE("fs: open flags") {
  FsFixture f;
  f.PutFile("file", "0123456789");
  const std::uint64_t node = f.client->Walk({"file"});
  const std::uint64_t reader = f.client->Handle(node, O_RDONLY);
  CHECK(f.client->Write(node, reader, 0, "x").error == EBADF);
  const std::uint64_t appender = f.client->Handle(node, O_WRONLY | O_APPEND);
  CHECK(f.client->Write(node, appender, 0, "a").error == 0);
  CHECK(f.GetFile("file") == "0123456789a");
  CHECK(f.client->Read(node, appender, 0, 1).error == EBADF);
  f.client->Handle(node, O_WRONLY | O_TRUNC);
  CHECK(f.GetFile("file").empty());
  CHECK(f.client->Open(node, O_ACCMODE).error == EINVAL);
  CHECK(f.client->Open(kRootId, O_RDONLY).error == EISDIR);
  // A handle is good for its own node only.
  f.PutFile("other", "secret");
  CHECK(f.client->Read(f.client->Walk({"other"}), reader, 0, 1).error == EBADF);
  // One that is there already.
  CHECK(f.client->Create(kRootId, "file", O_RDWR | O_EXCL).error == EEXIST);
  CHECK(f.client->Create(kRootId, "file", O_RDWR).error == 0);
  CHECK(f.client->Create(kRootId, "readonly", O_WRONLY | O_EXCL, 0444).error == 0);
}

TEST_CASE("fs: attributes") {
  FsFixture f;
  f.PutFile("file", "content");
  const std::uint64_t node = f.client->Walk({"file"});
  SetattrIn in{};
  in.valid = kSetMode;
  in.mode = 0604;
  CHECK(f.client->Setattr(node, in).error == 0);
  CHECK((f.Stat("file").st_mode & 07777) == 0604);
  in = {};
  in.valid = kSetSize;
  in.size = 3;
  CHECK(f.client->Setattr(node, in).As<AttributesOut>().attributes.size == 3);
  CHECK(f.GetFile("file") == "con");
  in.size = std::uint64_t{1} << 63U;
  CHECK(f.client->Setattr(node, in).error == EFBIG);
  in = {};
  in.valid = kSetAtime | kSetMtime;
  in.atime = 1000;
  in.atime_ns = 5;
  in.mtime = 2000;
  in.mtime_ns = 999'999'999;
  CHECK(f.client->Setattr(node, in).error == 0);
  CHECK(f.Stat("file").st_mtim.tv_sec == 2000);
  CHECK(f.Stat("file").st_mtim.tv_nsec == 999'999'999);
  // UTIME_NOW's own value: not a number of nanoseconds.
  in.mtime_ns = UTIME_NOW;
  CHECK(f.client->Setattr(node, in).error == EINVAL);
  // A link is changed itself, or not at all; what it leads to is not.
  REQUIRE(f.client->Symlink(kRootId, "link", "file").error == 0);
  in = {};
  in.valid = kSetMode;
  in.mode = 0777;
  CHECK(f.client->Setattr(f.client->Walk({"link"}), in).error == EOPNOTSUPP);
  CHECK((f.Stat("file").st_mode & 07777) == 0604);
  in = {};
  in.valid = kSetMtime;
  in.mtime = 77;
  CHECK(f.client->Setattr(f.client->Walk({"link"}), in).error == 0);
  CHECK(f.Stat("link").st_mtim.tv_sec == 77);
  CHECK(f.Stat("file").st_mtim.tv_sec == 2000);
}

TEST_CASE("fs: extended attributes") {
  FsFixture f;
  f.PutFile("file", "");
  if (::setxattr((f.root + "/file").c_str(), "user.probe", "", 0, 0) != 0) return;
  const std::uint64_t node = f.client->Walk({"file"});
  const auto set = [&](std::string_view name, std::string_view value, std::uint32_t size) {
    return f.client
        ->Call(Opcode::kSetxattr, node,
               FuseBody().Add(SetxattrIn{.size = size, .flags = 0}).Text(name).Raw(value))
        .error;
  };
  CHECK(set("user.a", "value", 5) == 0);
  CHECK(set("user.a", "value", 6) == EINVAL);
  CHECK(set("user.a", "value", 0xffff'ffff) == E2BIG);
  CHECK(set("trusted.overlay.opaque", "y", 1) == EOPNOTSUPP);
  CHECK(set("security.capability", "y", 1) == EOPNOTSUPP);
  const auto get = [&](std::string_view name, std::uint32_t size) {
    return f.client->Call(Opcode::kGetxattr, node,
                          FuseBody().Add(GetxattrIn{.size = size, .padding = 0}).Text(name));
  };
  CHECK(get("user.a", 0).As<GetxattrOut>().size == 5);
  CHECK(get("user.a", 64).text() == "value");
  CHECK(get("user.a", 2).error == ERANGE);
  CHECK(get("user.none", 64).error == ENODATA);
  const auto list = f.client->Call(Opcode::kListxattr, node,
                                   FuseBody().Add(GetxattrIn{.size = 4096, .padding = 0}));
  CHECK(list.text().find(std::string("user.a\0", 7)) != std::string::npos);
  CHECK(f.client->Call(Opcode::kRemovexattr, node, FuseBody().Text("user.a")).error == 0);
  CHECK(get("user.a", 0).error == ENODATA);
}

TEST_CASE("fs: locks of the host's files") {
  FsFixture f(test::ShareWithHostLocks());
  CHECK((f.client->Init().As<InitOut>().flags & (kInitPosixLocks | kInitFlockLocks)) != 0);
  f.PutFile("file", "0123456789");
  const std::uint64_t node = f.client->Walk({"file"});
  LockIn lock{};
  lock.handle = f.client->Handle(node, O_RDWR);
  lock.owner = 1;
  lock.lock = {.start = 0, .end = 4, .type = F_WRLCK, .pid = 9};
  const auto call = [&](Opcode opcode, const LockIn& in) {
    return f.client->Call(opcode, node, FuseBody().Add(in));
  };
  CHECK(call(Opcode::kSetlk, lock).error == 0);
  // Somebody else on the host sees it.
  const UniqueFd other(::open((f.root + "/file").c_str(), O_RDWR | O_CLOEXEC));
  struct flock theirs{};
  theirs.l_type = F_WRLCK;
  CHECK(::fcntl(other.get(), F_OFD_SETLK, &theirs) == -1);
  LockIn second = lock;
  second.owner = 2;
  CHECK(call(Opcode::kSetlk, second).error == EAGAIN);
  CHECK(call(Opcode::kGetlk, second).As<LockOut>().lock.end == 4);
  second.lock.start = 5;
  second.lock.end = 0x7fff'ffff'ffff'ffff;
  CHECK(call(Opcode::kSetlk, second).error == 0);
  second.lock.end = 1;
  CHECK(call(Opcode::kSetlk, second).error == EINVAL);

  // One that waits gets it when it is free.
  LockIn third = lock;
  third.owner = 3;
  const auto wait = [&] {
    const auto message = f.client->Message(Opcode::kSetlkw, node, FuseBody().Add(third));
    std::vector<std::byte> in = message;
    const virtio::Segment readable{.iov_base = in.data(), .iov_len = in.size()};
    return f.server->Handle({&readable, 1}, {}).waiting;
  };
  std::vector<std::byte> out(64);
  const virtio::Segment writable{.iov_base = out.data(), .iov_len = out.size()};
  const auto waiting = wait();
  REQUIRE(waiting.has_value());
  CHECK_FALSE(f.server->Retry(*waiting, {&writable, 1}).has_value());
  FlushIn flush{};
  flush.handle = lock.handle;
  flush.lock_owner = 1;
  CHECK(f.client->Call(Opcode::kFlush, node, FuseBody().Add(flush)).error == 0);
  CHECK(f.server->Retry(*waiting, {&writable, 1}) == sizeof(OutHeader));
  CHECK(LoadLe<OutHeader>(out).error == 0);
  // One that is interrupted gives up; and they are bounded.
  third.owner = 4;
  const auto interrupted = wait();
  REQUIRE(interrupted.has_value());
  const auto unique = [&] {
    // The last message's, which the next one is one more than.
    return LoadLe<InHeader>(f.client->Message(Opcode::kInterrupt, 0)).unique - 1;
  }();
  f.client->Send(Opcode::kInterrupt, 0, FuseBody().Add(InterruptIn{.unique = unique}));
  CHECK(f.server->Retry(*interrupted, {&writable, 1}) == sizeof(OutHeader));
  CHECK(LoadLe<OutHeader>(out).error == -EINTR);
  for (std::size_t i = 0; i < kMaxWaitingLocks; ++i) CHECK(wait().has_value());
  CHECK_FALSE(wait().has_value());

  LockIn flock = lock;
  flock.flags = kLockFlock;
  CHECK(call(Opcode::kSetlk, flock).error == 0);
  flock.handle = f.client->Handle(node, O_RDONLY);
  CHECK(call(Opcode::kSetlk, flock).error == EAGAIN);
  CHECK(f.client->Release(node, lock.handle).error == 0);
  CHECK(call(Opcode::kSetlk, flock).error == 0);
}

}  // namespace
}  // namespace embervm::devices::fs
