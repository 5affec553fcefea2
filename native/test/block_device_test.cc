// virtio-blk against a driver, on real files; and what may not be opened.
#include <doctest/doctest.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "devices/block/device.h"
#include "devices/block/limits.h"
#include "devices/block/protocol.h"
#include "test/support/block_fixture.h"

namespace embervm::devices {
namespace {

using block::RequestHeader;
using test::BlockFixture;
using test::Driver;
using test::DriverBuffer;
using test::kDiskBytes;
using test::kNoStatus;
using test::kSectors;
using test::LoopThread;
using test::TempFile;

TEST_CASE("block: features and configuration") {
  BlockFixture f;
  CHECK(f.driver.Read32(virtio::kRegDeviceId) == 2);
  block::Config config{};
  f.driver.transport().Read(virtio::kRegConfig,
                            std::as_writable_bytes(std::span<block::Config, 1>(&config, 1)));
  CHECK(config.capacity == kSectors);
  CHECK(config.seg_max == 254);
  CHECK(config.blk_size == 512);
  CHECK(config.max_discard_sectors > 0);
  CHECK((f.driver.OfferedFeatures() & block::kFeatureReadOnly) == 0);
  CHECK((f.driver.OfferedFeatures() & block::kFeatureFlush) != 0);
  BlockFixture read_only(true);
  CHECK((read_only.driver.OfferedFeatures() & block::kFeatureReadOnly) != 0);
  CHECK((read_only.driver.OfferedFeatures() & block::kFeatureDiscard) == 0);
}

TEST_CASE("block: reads, writes and counters") {
  BlockFixture f;
  const auto data = f.Pattern(8192, 1);
  const GuestAddr out = f.driver.Put(data);
  auto answer = f.Request(block::kTypeOut, 4, {{out, 512, false}, {out + 512, 7680, false}});
  CHECK(answer.status == 0);
  CHECK(answer.used == 1);
  CHECK(f.file.Read(4 * 512, 8192) == data);

  const GuestAddr in = f.driver.arena().Allocate(8192);
  answer = f.Request(block::kTypeIn, 4, {{in, 4096, true}, {in + 4096, 4096, true}});
  CHECK(answer.status == 0);
  CHECK(answer.used == 8193);
  CHECK(f.driver.Get(in, 8192) == data);

  CHECK(f.Request(block::kTypeFlush, 0).status == 0);
  CHECK(f.Request(block::kTypeIn, kSectors, {{in, 512, true}}).status == 1);
  const BlockDevice::Counters counters = f.device->counters();
  CHECK(counters.reads == 1);
  CHECK(counters.read_bytes == 8192);
  CHECK(counters.writes == 1);
  CHECK(counters.written_bytes == 8192);
  CHECK(counters.flushes == 1);
  CHECK(counters.errors == 1);
}

TEST_CASE("block: 254 scattered segments in one indirect request") {
  BlockFixture f;
  std::vector<DriverBuffer> in;
  for (int i = 0; i < 254; ++i) in.push_back({f.driver.arena().Allocate(1024, 1024), 512, true});
  const auto data = f.Pattern(254 * 512, 2);
  f.file.Write(0, data);
  CHECK(f.Request(block::kTypeIn, 0, in, true).status == 0);
  std::vector<std::byte> got;
  for (const DriverBuffer& buffer : in) {
    const auto part = f.driver.Get(buffer.addr, buffer.len);
    got.insert(got.end(), part.begin(), part.end());
  }
  CHECK(got == data);
}

TEST_CASE("block: any split of header, data and status") {
  // virtio 1.2 §2.7.4: the framing is the driver's choice.
  BlockFixture f;
  const auto data = f.Pattern(512, 3);
  f.file.Write(512, data);
  const GuestAddr header =
      f.driver.PutStruct(RequestHeader{.type = block::kTypeIn, .reserved = 0, .sector = 1});
  const GuestAddr in = f.driver.arena().Allocate(513);
  f.driver.queue(0).Add({{header, 3, false}, {header + 3, 13, false}, {in, 513, true}});
  f.driver.KickIfAsked(0);
  CHECK(f.driver.WaitUsed(0).len == 513);
  CHECK(f.driver.Get(in, 512) == data);
  CHECK(f.driver.Get(in + 512, 1)[0] == std::byte{0});

  std::vector<std::byte> request(16 + 512);
  const RequestHeader out{.type = block::kTypeOut, .reserved = 0, .sector = 2};
  std::memcpy(request.data(), &out, sizeof(out));
  std::ranges::copy(data, request.begin() + 16);
  const GuestAddr whole = f.driver.Put(request);
  f.driver.queue(0).Add({{whole, 528, false}, {in, 1, true}});
  f.driver.KickIfAsked(0);
  CHECK(f.driver.WaitUsed(0).len == 1);
  CHECK(f.file.Read(2 * 512, 512) == data);
}

TEST_CASE("block: ranges outside the disk, odd lengths and unknown types") {
  BlockFixture f;
  const GuestAddr buffer = f.driver.arena().Allocate(4096);
  struct Row {
    std::uint32_t type;
    std::uint64_t sector;
    std::uint32_t length;
    std::uint32_t status;
  };
  for (const Row& row : std::vector<Row>{
           {block::kTypeIn, kSectors - 1, 512, 0},
           {block::kTypeIn, kSectors - 1, 1024, 1},
           {block::kTypeIn, kSectors, 512, 1},
           {block::kTypeIn, UINT64_MAX, 512, 1},
           {block::kTypeIn, UINT64_MAX / 512, 512, 1},
           {block::kTypeIn, (std::uint64_t{1} << 55) + 1, 512, 1},  // Wraps in bytes.
           {block::kTypeIn, 0, 511, 1},
           {block::kTypeIn, 0, 1, 1},
           {block::kTypeIn, 0, 0, 0},
           {block::kTypeOut, kSectors - 1, 512, 0},
           {block::kTypeOut, kSectors - 1, 1024, 1},
           {block::kTypeOut, kSectors, 512, 1},
           {block::kTypeOut, 0, 513, 1},
           {2, 0, 512, 2},
           {0xffffffff, 0, 512, 2},
       }) {
    CAPTURE(row.type);
    CAPTURE(row.sector);
    CAPTURE(row.length);
    const bool writable = row.type != block::kTypeOut;
    CHECK(f.Request(row.type, row.sector, {{buffer, row.length, writable}}).status == row.status);
  }
  CHECK(f.AllocatedBytes() <= 4096);  // The refused writes wrote nothing.
}

TEST_CASE("block: requests without header or status") {
  BlockFixture f;
  const GuestAddr header = f.driver.PutStruct(RequestHeader{.type = 0, .reserved = 0, .sector = 0});
  const GuestAddr status = f.driver.PutStruct(std::uint8_t{0xff});
  f.driver.queue(0).Add({{header, 16, false}});  // No place for the status.
  f.driver.Kick(0);
  CHECK(f.driver.WaitUsed(0).len == 0);
  f.driver.queue(0).Add({{header, 15, false}, {status, 1, true}});
  f.driver.Kick(0);
  CHECK(f.driver.WaitUsed(0).len == 1);
  CHECK(f.driver.Get(status, 1)[0] == std::byte{1});
  f.driver.queue(0).Add({{Driver::kMemoryBytes, 16, false}, {status, 1, true}});
  f.driver.Kick(0);
  CHECK(f.driver.WaitUsed(0).len == 0);
  CHECK(f.driver.failures().empty());
}

TEST_CASE("block: GET_ID") {
  BlockFixture f;
  const GuestAddr buffer = f.driver.arena().Allocate(64);
  auto answer = f.Request(block::kTypeGetId, 0, {{buffer, 20, true}});
  CHECK(answer.status == 0);
  CHECK(answer.used == 21);
  std::array<char, 20> id{};
  std::memcpy(id.data(), f.driver.Get(buffer, 20).data(), id.size());
  CHECK(std::string(id.data()) == "rootfs");
  CHECK(f.Request(block::kTypeGetId, 0, {{buffer, 19, true}}).status == 1);
}

TEST_CASE("block: discard gives space back, write-zeroes zeroes") {
  BlockFixture f;
  const GuestAddr out = f.driver.Put(f.Pattern(65536, 4));
  CHECK(f.Request(block::kTypeOut, 0, {{out, 65536, false}}).status == 0);
  CHECK(f.AllocatedBytes() >= 65536);
  const auto range = [&f](std::uint32_t type, const block::RangeSegment& segment) {
    return f.Request(type, 0, {{f.driver.PutStruct(segment), sizeof(segment), false}}).status;
  };
  CHECK(range(block::kTypeDiscard, {.sector = 0, .sector_count = 64, .flags = 0}) == 0);
  CHECK(f.AllocatedBytes() <= 65536 - 32768);
  CHECK(f.file.Read(0, 512) == std::vector<std::byte>(512));
  CHECK(f.file.Read(32768, 512) != std::vector<std::byte>(512));
  for (const std::uint32_t flags : {0U, block::kRangeUnmap}) {
    CHECK(f.Request(block::kTypeOut, 0, {{out, 4096, false}}).status == 0);
    CHECK(range(block::kTypeWriteZeroes, {.sector = 1, .sector_count = 3, .flags = flags}) == 0);
    CHECK(f.file.Read(512, 1536) == std::vector<std::byte>(1536));
    CHECK(f.file.Read(0, 512) == f.driver.Get(out, 512));
    CHECK(f.file.Read(2048, 512) == f.driver.Get(out + 2048, 512));
  }
  // What a range may not be.
  CHECK(range(block::kTypeDiscard, {.sector = kSectors, .sector_count = 1, .flags = 0}) == 1);
  CHECK(range(block::kTypeDiscard, {.sector = kSectors - 1, .sector_count = 2, .flags = 0}) == 1);
  CHECK(range(block::kTypeDiscard, {.sector = UINT64_MAX, .sector_count = 2, .flags = 0}) == 1);
  CHECK(range(block::kTypeDiscard, {.sector = 0, .sector_count = 1, .flags = 1}) == 2);
  CHECK(range(block::kTypeWriteZeroes, {.sector = 0, .sector_count = 1, .flags = 2}) == 2);
  CHECK(range(block::kTypeWriteZeroes,
              {.sector = 0, .sector_count = block::kMaxWriteZeroesSectors + 1, .flags = 0}) == 1);
  CHECK(range(block::kTypeDiscard, {.sector = kSectors, .sector_count = 0, .flags = 0}) == 0);
  const GuestAddr many = f.driver.arena().Allocate(17 * 16);
  CHECK(f.Request(block::kTypeDiscard, 0, {{many, 17 * 16, false}}).status == 1);
  CHECK(f.Request(block::kTypeDiscard, 0, {{many, 15, false}}).status == 1);
  CHECK(f.Request(block::kTypeDiscard, 0).status == 1);
}

TEST_CASE("block: a range is no longer than announced") {
  BlockFixture f(false, std::uint64_t{4} << 30U);
  const auto range = [&f](std::uint32_t type, std::uint32_t count) {
    const block::RangeSegment segment{.sector = 0, .sector_count = count, .flags = 0};
    return f.Request(type, 0, {{f.driver.PutStruct(segment), sizeof(segment), false}}).status;
  };
  CHECK(range(block::kTypeDiscard, block::kMaxDiscardSectors) == 0);
  CHECK(range(block::kTypeDiscard, block::kMaxDiscardSectors + 1) == 1);
  CHECK(range(block::kTypeWriteZeroes, block::kMaxWriteZeroesSectors) == 0);
  CHECK(range(block::kTypeWriteZeroes, block::kMaxWriteZeroesSectors + 1) == 1);
}

TEST_CASE("block: a read-only disk is not written") {
  BlockFixture f(true);
  const GuestAddr buffer = f.driver.Put(f.Pattern(512, 5));
  CHECK(f.Request(block::kTypeIn, 0, {{buffer, 512, true}}).status == 0);
  CHECK(f.Request(block::kTypeOut, 0, {{buffer, 512, false}}).status == 1);
  const block::RangeSegment range{.sector = 0, .sector_count = 8, .flags = 0};
  const GuestAddr segment = f.driver.PutStruct(range);
  CHECK(f.Request(block::kTypeDiscard, 0, {{segment, 16, false}}).status == 1);
  CHECK(f.Request(block::kTypeWriteZeroes, 0, {{segment, 16, false}}).status == 1);
  CHECK(f.Request(block::kTypeFlush, 0).status == 0);
}

TEST_CASE("block: a file that shrinks under the guest is an I/O error") {
  BlockFixture f;
  REQUIRE(::truncate(f.file.path().c_str(), 4096) == 0);
  const GuestAddr in = f.driver.arena().Allocate(8192);
  const auto answer = f.Request(block::kTypeIn, 0, {{in, 8192, true}});
  CHECK(answer.status == 1);
  CHECK(answer.used == 4096);
}

TEST_CASE("block: many requests in flight, each completed once") {
  BlockFixture f;
  const auto data = f.Pattern(kDiskBytes, 6);
  f.file.Write(0, data);
  constexpr int kDepth = 80;
  const GuestAddr in = f.driver.arena().Allocate(kDepth * 512);
  const GuestAddr status = f.driver.arena().Allocate(kDepth);
  for (int round = 0; round < 20; ++round) {
    REQUIRE(f.driver.memory().Fill(status, kDepth, std::byte{0xff}).has_value());
    for (unsigned i = 0; i < kDepth; ++i) {
      const std::uint64_t sector = (i * 37U + static_cast<unsigned>(round)) % kSectors;
      const GuestAddr header =
          f.driver.PutStruct(RequestHeader{.type = 0, .reserved = 0, .sector = sector});
      f.driver.queue(0).Add(
          {{header, 16, false}, {in + i * 512, 512, true}, {status + i, 1, true}});
      f.driver.KickIfAsked(0);
    }
    for (int i = 0; i < kDepth; ++i) CHECK(f.driver.WaitUsed(0).len == 513);
    CHECK(f.driver.Get(status, kDepth) == std::vector<std::byte>(kDepth));
    for (unsigned i = 0; i < kDepth; ++i) {
      const std::uint64_t sector = (i * 37U + static_cast<unsigned>(round)) % kSectors;
      const auto begin = data.begin() + static_cast<std::ptrdiff_t>(sector * 512);
      CHECK(std::ranges::equal(f.driver.Get(in + i * 512, 512), std::span(begin, 512)));
    }
  }
  CHECK(f.device->counters().reads == 20 * kDepth);
}

TEST_CASE("block: a batch of requests takes one interrupt") {
  // A deeper queue is told of in parts.
  constexpr int kBatch = 15;
  BlockFixture f;
  const GuestAddr in = f.driver.arena().Allocate(block::kIdBytes);
  const GuestAddr status = f.driver.arena().Allocate(1);
  // Of a kind that no disk has to be waited for.
  const GuestAddr header =
      f.driver.PutStruct(RequestHeader{.type = block::kTypeGetId, .reserved = 0, .sector = 0});
  REQUIRE_FALSE(f.driver.queue(0).EnableInterrupts());
  const std::uint64_t before = f.driver.transport().interrupts();
  int kicks = 0;
  f.thread.WhileBlocked([&] {
    for (int i = 0; i < kBatch; ++i) {
      f.driver.queue(0).Add({{header, 16, false}, {in, block::kIdBytes, true}, {status, 1, true}});
      if (f.driver.queue(0).TakeKick()) {
        ++kicks;
        f.driver.Kick(0);
      }
    }
  });
  for (int i = 0; i < kBatch; ++i) CHECK(f.driver.WaitUsed(0).len == block::kIdBytes + 1);
  CHECK(kicks == 1);
  CHECK(f.driver.transport().interrupts() - before == 1);
}

TEST_CASE("block: random requests do no harm") {
  BlockFixture f;
  std::mt19937_64 random(11);
  const GuestAddr area = f.driver.arena().Allocate(65536);
  for (int round = 0; round < 2000; ++round) {
    constexpr std::array<std::uint32_t, 8> kTypes{0, 1, 4, 8, 11, 13, 3, 99};
    const GuestAddr header = f.driver.PutStruct(
        RequestHeader{.type = kTypes.at(random() % kTypes.size()),
                      .reserved = static_cast<std::uint32_t>(random()),
                      .sector = random() % 3 == 0 ? random() : random() % (kSectors + 4)});
    std::vector<DriverBuffer> buffers{{header, static_cast<std::uint32_t>(random() % 20), false}};
    for (std::uint64_t i = random() % 5; i > 0; --i) {
      buffers.push_back(
          {area + random() % 1024, static_cast<std::uint32_t>(random() % 4097), random() % 2 == 0});
    }
    f.driver.queue(0).AddIndirect(buffers);
    f.driver.KickIfAsked(0);
    f.driver.WaitUsed(0);
  }
  CHECK(f.driver.failures().empty());
  CHECK(f.Request(block::kTypeIn, 0, {{area, 512, true}}).status == 0);
}

std::string CodeOf(const std::string& path, bool read_only, const std::string& id = "x") {
  const auto device = BlockDevice::Open({.id = id, .path = path, .read_only = read_only});
  return device.has_value() ? "" : device.error().code();
}

TEST_CASE("block: what cannot be a drive") {
  const TempFile file(kDiskBytes);
  CHECK(CodeOf(file.path(), false).empty());
  CHECK(CodeOf(file.path() + ".absent", true) == "ERR_DRIVE_NOT_FOUND");
  CHECK(CodeOf(file.path() + "/below", true) == "ERR_DRIVE_NOT_FOUND");
  CHECK(CodeOf("", true) == "ERR_DRIVE_NOT_FOUND");
  CHECK(CodeOf(file.directory(), true) == "ERR_DRIVE_INVALID");
  CHECK(CodeOf(file.directory(), false) == "ERR_DRIVE_INVALID");
  CHECK(CodeOf("/dev/null", true) == "ERR_DRIVE_INVALID");
  CHECK(CodeOf(TempFile(0).path(), true) == "ERR_DRIVE_INVALID");
  CHECK(CodeOf(TempFile(1000).path(), true) == "ERR_DRIVE_INVALID");
  CHECK(CodeOf(file.path(), true, std::string(21, 'x')) == "ERR_DRIVE_INVALID");
  CHECK(CodeOf(file.path(), true, std::string(20, 'x')).empty());
  const std::string fifo = file.directory() + "/fifo";
  REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  CHECK(CodeOf(fifo, true) == "ERR_DRIVE_INVALID");  // And does not hang.
  const std::string loop = file.directory() + "/loop";
  REQUIRE(::symlink(loop.c_str(), loop.c_str()) == 0);
  CHECK(CodeOf(loop, true) == "ERR_DRIVE_INVALID");
}

TEST_CASE("block: a file without permission") {
  const TempFile file(kDiskBytes);
  REQUIRE(::chmod(file.directory().c_str(), 0755) == 0);
  REQUIRE(::chmod(file.path().c_str(), 0400) == 0);
  // Root may open anything: a child without that right asks.
  const pid_t child = ::fork();
  if (child == 0) {
    if (::geteuid() == 0 && ::setresuid(65534, 65534, 65534) != 0) ::_exit(2);
    ::_exit(CodeOf(file.path(), false) == "ERR_DRIVE_ACCESS" ? 0 : 1);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
}

TEST_CASE("block: one writer or many readers, also within one process") {
  const TempFile file(kDiskBytes);
  {
    const auto writer = BlockDevice::Open({.id = "x", .path = file.path()});
    REQUIRE(writer.has_value());
    CHECK(CodeOf(file.path(), false) == "ERR_DRIVE_BUSY");
    CHECK(CodeOf(file.path(), true) == "ERR_DRIVE_BUSY");
  }
  const auto reader = BlockDevice::Open({.id = "x", .path = file.path(), .read_only = true});
  REQUIRE(reader.has_value());
  CHECK(CodeOf(file.path(), true).empty());
  CHECK(CodeOf(file.path(), false) == "ERR_DRIVE_BUSY");
}

}  // namespace
}  // namespace embervm::devices
