// The queue walk against rings that a test driver writes: right ones, and every way of
// getting them wrong.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <set>
#include <vector>

#include "memory/guest_memory.h"
#include "test/support/driver_queue.h"
#include "virtio/queue.h"

namespace embervm::virtio {
namespace {

using test::DriverBuffer;
using test::DriverQueue;
using test::GuestArena;

constexpr std::uint64_t kMemoryBytes = 1U << 20U;
constexpr GuestAddr kBuffer = 0x80000;

struct Fixture {
  explicit Fixture(std::uint16_t size = 8, std::uint64_t ring_features = kRingFeatures,
                   QueuePosition position = {})
      : memory(GuestMemory::Create(kMemoryBytes).value()),
        arena(memory, 0x1000),
        driver(arena, size, ring_features),
        queue(Queue::Create(memory, driver.Config(size), ring_features, position).value()) {
    driver.SetPosition(position.next_avail);
  }

  Chain MustPop() {
    auto chain = queue.Pop();
    REQUIRE(chain.has_value());
    REQUIRE(chain->has_value());
    return **chain;
  }
  bool IsEmpty() {
    const auto chain = queue.Pop();
    REQUIRE(chain.has_value());
    return !chain->has_value();
  }
  // A raw chain that starts at descriptor 0.
  Chain PopRaw(std::initializer_list<Descriptor> table) {
    std::uint16_t index = 0;
    for (const Descriptor& descriptor : table) driver.SetDescriptor(index++, descriptor);
    driver.MakeAvailable(0);
    return MustPop();
  }

  GuestMemory memory;
  GuestArena arena;
  DriverQueue driver;
  Queue queue;
};

TEST_CASE("queue: a chain has its readable part first, then its writable part") {
  Fixture f;
  const std::uint16_t head = f.driver.Add({{kBuffer, 10, false},
                                           {kBuffer + 100, 0, false},
                                           {kBuffer + 200, 20, false},
                                           {kBuffer + 300, 30, true}});
  const Chain chain = f.MustPop();
  CHECK(chain.head() == head);
  CHECK_FALSE(chain.malformed());
  CHECK(chain.readable_bytes() == 30);
  CHECK(chain.writable_bytes() == 30);
  REQUIRE(chain.readable().size() == 2);  // The empty one is dropped.
  CHECK(chain.readable()[1].iov_base == f.memory.Slice(kBuffer + 200, 20)->data());
  REQUIRE(chain.writable().size() == 1);
  CHECK(chain.writable()[0].iov_len == 30);
  CHECK(f.IsEmpty());
}

TEST_CASE("queue: an indirect table, alone and after direct descriptors") {
  Fixture f;
  const std::vector<DriverBuffer> buffers{{kBuffer, 16, false}, {kBuffer + 64, 512, true}};
  f.driver.AddIndirect(buffers);
  Chain chain = f.MustPop();
  CHECK(chain.readable_bytes() == 16);
  CHECK(chain.writable_bytes() == 512);

  const GuestAddr table = f.arena.Allocate(32);
  const Descriptor inner{.addr = kBuffer + 64, .len = 7, .flags = kDescWrite, .next = 0};
  REQUIRE(f.memory.Write(table, AsBytes(inner)).has_value());
  chain = f.PopRaw({{.addr = kBuffer, .len = 5, .flags = kDescNext, .next = 1},
                    // WRITE means nothing on a reference to a table (§2.7.5.3.2).
                    {.addr = table, .len = 16, .flags = kDescIndirect | kDescWrite, .next = 0}});
  CHECK(chain.readable_bytes() == 5);
  CHECK(chain.writable_bytes() == 7);
}

TEST_CASE("queue: malformed chains keep their head and lose their segments") {
  Fixture f;
  const GuestAddr table = f.arena.Allocate(64 * sizeof(Descriptor));
  const auto put = [&](std::uint16_t index, const Descriptor& descriptor) {
    REQUIRE(f.memory.Write(table + index * sizeof(Descriptor), AsBytes(descriptor)).has_value());
  };
  const Descriptor good{.addr = kBuffer, .len = 4, .flags = 0, .next = 0};
  Chain chain(0);
  SUBCASE("a loop onto itself") {
    chain = f.PopRaw({{.addr = kBuffer, .len = 1, .flags = kDescNext, .next = 0}});
  }
  SUBCASE("a loop of two") {
    chain = f.PopRaw({{.addr = kBuffer, .len = 1, .flags = kDescNext, .next = 1},
                      {.addr = kBuffer, .len = 1, .flags = kDescNext, .next = 0}});
  }
  SUBCASE("the next descriptor is past the table") {
    chain = f.PopRaw({{.addr = kBuffer, .len = 1, .flags = kDescNext, .next = 8}});
  }
  SUBCASE("an address outside RAM") {
    chain = f.PopRaw({{.addr = kMemoryBytes, .len = 1, .flags = 0, .next = 0}});
  }
  SUBCASE("a range that ends outside RAM") {
    chain = f.PopRaw({{.addr = kMemoryBytes - 4, .len = 5, .flags = 0, .next = 0}});
  }
  SUBCASE("a range that wraps around the address space") {
    chain = f.PopRaw({{.addr = UINT64_MAX - 3, .len = 16, .flags = 0, .next = 0}});
  }
  SUBCASE("a readable descriptor after a writable one") {
    chain = f.PopRaw({{.addr = kBuffer, .len = 1, .flags = kDescNext | kDescWrite, .next = 1},
                      {.addr = kBuffer, .len = 1, .flags = 0, .next = 0}});
  }
  SUBCASE("an empty readable descriptor after a writable one") {
    chain = f.PopRaw({{.addr = kBuffer, .len = 1, .flags = kDescNext | kDescWrite, .next = 1},
                      {.addr = kBuffer, .len = 0, .flags = 0, .next = 0}});
  }
  SUBCASE("an indirect table with NEXT") {
    put(0, good);
    chain =
        f.PopRaw({{.addr = table, .len = 16, .flags = kDescIndirect | kDescNext, .next = 1}, good});
  }
  SUBCASE("an empty indirect table") {
    chain = f.PopRaw({{.addr = table, .len = 0, .flags = kDescIndirect, .next = 0}});
  }
  SUBCASE("an indirect table of a broken length") {
    put(0, good);
    chain = f.PopRaw({{.addr = table, .len = 24, .flags = kDescIndirect, .next = 0}});
  }
  SUBCASE("an indirect table that is longer than the queue may be") {
    for (std::uint16_t i = 0; i < 9; ++i) put(i, good);
    chain = f.PopRaw({{.addr = table, .len = 9 * 16, .flags = kDescIndirect, .next = 0}});
  }
  SUBCASE("an indirect table outside RAM") {
    chain = f.PopRaw({{.addr = kMemoryBytes - 16, .len = 32, .flags = kDescIndirect, .next = 0}});
  }
  SUBCASE("an indirect table in an indirect table") {
    put(0, {.addr = table + 16, .len = 16, .flags = kDescIndirect, .next = 0});
    put(1, good);
    chain = f.PopRaw({{.addr = table, .len = 16, .flags = kDescIndirect, .next = 0}});
  }
  SUBCASE("a loop in an indirect table") {
    put(0, {.addr = kBuffer, .len = 1, .flags = kDescNext, .next = 1});
    put(1, {.addr = kBuffer, .len = 1, .flags = kDescNext, .next = 0});
    chain = f.PopRaw({{.addr = table, .len = 32, .flags = kDescIndirect, .next = 0}});
  }
  SUBCASE("the next descriptor is past the indirect table") {
    put(0, {.addr = kBuffer, .len = 1, .flags = kDescNext, .next = 2});
    chain = f.PopRaw({{.addr = table, .len = 32, .flags = kDescIndirect, .next = 0}});
  }
  CHECK(chain.malformed());
  CHECK(chain.head() == 0);
  CHECK(chain.readable().empty());
  CHECK(chain.writable().empty());
  CHECK(chain.readable_bytes() + chain.writable_bytes() == 0);
  CHECK(f.queue.malformed_chains() == 1);
  // The head goes back, and the queue goes on.
  f.queue.AddUsed(chain.head(), 0);
  CHECK(f.queue.PublishUsed());
  CHECK(f.driver.PopUsed()->id == 0);
  f.PopRaw({good});
  CHECK(f.queue.malformed_chains() == 1);
}

TEST_CASE("queue: the total length of a chain fits in 32 bits") {
  // Each part is in RAM; only their sum is too long.
  GuestMemory memory = GuestMemory::Create(std::uint64_t{3} << 30U).value();
  GuestArena arena(memory, 0x1000);
  DriverQueue driver(arena, 8, kRingFeatures);
  Queue queue = Queue::Create(memory, driver.Config(8), kRingFeatures).value();
  driver.Add({{0, 0x8000'0000, false}, {0, 0x7fff'ffff, false}});
  CHECK_FALSE((*queue.Pop())->malformed());
  driver.Add({{0, 0x8000'0000, false}, {0, 0x8000'0000, true}});
  CHECK((*queue.Pop())->malformed());
}

TEST_CASE("queue: an indirect table needs the feature") {
  Fixture f(8, kFeatureVersion1 | kFeatureEventIdx);
  const std::vector<DriverBuffer> buffers{{kBuffer, 16, false}};
  f.driver.AddIndirect(buffers);
  CHECK(f.MustPop().malformed());
}

TEST_CASE("queue: rings that make no sense are errors") {
  Fixture f;
  SUBCASE("an available index too far ahead") { f.driver.SetAvailIndex(9); }
  SUBCASE("an available index that went back") { f.driver.SetAvailIndex(0xffff); }
  SUBCASE("a head past the table") { f.driver.MakeAvailable(8); }
  const auto chain = f.queue.Pop();
  REQUIRE_FALSE(chain.has_value());
  CHECK(chain.error().code() == "ERR_VIRTIO_QUEUE");
}

TEST_CASE("queue: set-ups that are refused") {
  const GuestMemory memory = GuestMemory::Create(kMemoryBytes).value();
  GuestArena arena(memory, 0x1000);
  const DriverQueue driver(arena, 8, kRingFeatures);
  QueueConfig config = driver.Config(8);
  CHECK(Queue::Create(memory, config, kRingFeatures).has_value());
  SUBCASE("not ready") { config.ready = false; }
  SUBCASE("no size") { config.size = 0; }
  SUBCASE("too large") { config.size = 16; }
  SUBCASE("not a power of two") { config.size = 6; }
  SUBCASE("misaligned descriptors") { config.descriptor_table += 8; }
  SUBCASE("misaligned available ring") { config.driver_ring += 1; }
  SUBCASE("misaligned used ring") { config.device_ring += 2; }
  SUBCASE("descriptors outside RAM") { config.descriptor_table = kMemoryBytes - 64; }
  SUBCASE("available ring ends outside RAM") { config.driver_ring = kMemoryBytes - 20; }
  SUBCASE("used ring ends outside RAM") { config.device_ring = kMemoryBytes - 68; }
  SUBCASE("an address that wraps") { config.descriptor_table = UINT64_MAX - 15; }
  const auto queue = Queue::Create(memory, config, kRingFeatures);
  REQUIRE_FALSE(queue.has_value());
  CHECK(queue.error().code() == "ERR_VIRTIO_QUEUE");
}

TEST_CASE("queue: rings may end at the last byte of RAM") {
  const GuestMemory memory = GuestMemory::Create(kMemoryBytes).value();
  GuestArena arena(memory, 0x1000);
  QueueConfig config = DriverQueue(arena, 8, kRingFeatures).Config(8);
  config.driver_ring = kMemoryBytes - 22;
  CHECK(Queue::Create(memory, config, kRingFeatures).has_value());
}

TEST_CASE("queue: indices wrap at 16 bits") {
  Fixture f(8, kRingFeatures, {.next_avail = 0xfffd, .next_used = 0xfffd});
  for (int round = 0; round < 20; ++round) {
    const std::uint16_t head = f.driver.Add({{kBuffer, 4, true}});
    const Chain chain = f.MustPop();
    CHECK(chain.head() == head);
    f.queue.AddUsed(head, static_cast<std::uint32_t>(round));
    CHECK_FALSE(f.driver.EnableInterrupts());
    CHECK(f.queue.PublishUsed());
    const auto used = f.driver.PopUsed();
    REQUIRE(used.has_value());
    CHECK(used->id == head);
    CHECK(used->len == static_cast<std::uint32_t>(round));
  }
  CHECK(f.queue.position().next_avail == 17);
  CHECK(f.queue.position().next_used == 17);
}

TEST_CASE("queue: a full ring at once") {
  Fixture f;
  for (int i = 0; i < 8; ++i) f.driver.Add({{kBuffer, 4, true}});
  std::set<std::uint16_t> heads;
  for (int i = 0; i < 8; ++i) heads.insert(f.MustPop().head());
  CHECK(heads.size() == 8);
  CHECK(f.IsEmpty());
}

TEST_CASE("queue: undoing a pop gives the same chain again") {
  Fixture f;
  f.driver.Add({{kBuffer, 4, true}});
  const std::uint16_t second = f.driver.Add({{kBuffer, 8, true}});
  f.MustPop();
  CHECK(f.MustPop().head() == second);
  f.queue.UndoPop();
  const Chain again = f.MustPop();
  CHECK(again.head() == second);
  CHECK(again.writable_bytes() == 8);
  CHECK(f.IsEmpty());
}

TEST_CASE("queue: interrupts with EVENT_IDX") {
  // (position, used_event, elements in the batch, interrupt?)
  struct Row {
    std::uint16_t start;
    std::uint16_t used_event;
    int batch;
    bool expected;
  };
  for (const Row& row : std::vector<Row>{
           {0, 0, 1, true},            // The next one.
           {0, 0, 3, true},            // In the batch, at its start.
           {0, 2, 3, true},            // At its end.
           {0, 3, 3, false},           // Just after it.
           {0, 7, 3, false},           // Well after it.
           {5, 4, 3, false},           // Passed long ago.
           {0xfffe, 0xffff, 3, true},  // Across the wrap.
           {0xfffe, 0, 3, true},
           {0xfffe, 1, 3, false},
           {0, 0xffff, 3, false},  // Behind by one.
           {0x8000, 0, 3, false},
       }) {
    CAPTURE(row.start);
    CAPTURE(row.used_event);
    Fixture f(8, kRingFeatures, {.next_avail = row.start, .next_used = row.start});
    f.driver.SetUsedEvent(row.used_event);
    CHECK_FALSE(f.queue.PublishUsed());  // Nothing to publish: nothing to signal.
    for (int i = 0; i < row.batch; ++i) {
      f.driver.Add({{kBuffer, 4, true}});
      f.queue.AddUsed(f.MustPop().head(), 0);
    }
    CHECK(f.driver.used_index() == row.start);  // Not before the publish.
    CHECK(f.queue.PublishUsed() == row.expected);
    CHECK(f.driver.used_index() == static_cast<std::uint16_t>(row.start + row.batch));
    CHECK_FALSE(f.queue.PublishUsed());
  }
}

TEST_CASE("queue: interrupts and notifications without EVENT_IDX") {
  Fixture f(8, kFeatureVersion1);
  f.queue.DisableNotifications();
  f.driver.Add({{kBuffer, 4, true}});
  CHECK_FALSE(f.driver.TakeKick());
  f.queue.AddUsed(f.MustPop().head(), 0);
  CHECK(f.queue.PublishUsed());
  CHECK_FALSE(f.queue.EnableNotifications());
  f.driver.Add({{kBuffer, 4, true}});
  CHECK(f.driver.TakeKick());
  f.driver.DisableInterrupts();
  f.queue.AddUsed(f.MustPop().head(), 0);
  CHECK_FALSE(f.queue.PublishUsed());
}

TEST_CASE("queue: notifications with EVENT_IDX") {
  Fixture f;
  CHECK_FALSE(f.queue.EnableNotifications());
  f.driver.Add({{kBuffer, 4, true}});
  CHECK(f.driver.TakeKick());
  f.driver.Add({{kBuffer, 4, true}});
  CHECK_FALSE(f.driver.TakeKick());  // Once is enough.
  f.MustPop();
  CHECK(f.queue.EnableNotifications());  // One is left: the caller goes on.
  f.MustPop();
  CHECK_FALSE(f.queue.EnableNotifications());
  f.queue.DisableNotifications();
  f.driver.Add({{kBuffer, 4, true}});
  CHECK(f.driver.TakeKick());
}

TEST_CASE("queue: random rings never reach outside RAM, loop or lose a head") {
  std::mt19937_64 random(20240607);
  const auto pick = [&random](std::uint64_t bound) { return random() % bound; };
  for (int round = 0; round < 3000; ++round) {
    Fixture f(16);
    std::vector<std::byte> junk(8192);
    std::ranges::generate(junk, [&] { return static_cast<std::byte>(random()); });
    REQUIRE(f.memory.Write(0x1000, junk).has_value());
    // Half the descriptors are plausible, so that walks come further than one step.
    for (std::uint16_t i = 0; i < 16; ++i) {
      if (pick(2) == 0) continue;
      f.driver.SetDescriptor(i, {.addr = pick(kMemoryBytes + 64),
                                 .len = static_cast<std::uint32_t>(pick(256) * 16),
                                 .flags = static_cast<std::uint16_t>(pick(8)),
                                 .next = static_cast<std::uint16_t>(pick(18))});
    }
    f.driver.SetAvailIndex(static_cast<std::uint16_t>(pick(20)));
    const GuestMemory::Region ram = f.memory.regions().front();
    for (int pops = 0; pops < 20; ++pops) {
      const auto chain = f.queue.Pop();
      if (!chain.has_value() || !chain->has_value()) break;
      std::uint64_t total = 0;
      for (const Segments part : {(*chain)->readable(), (*chain)->writable()}) {
        for (const Segment& segment : part) {
          const auto* const begin = static_cast<const std::byte*>(segment.iov_base);
          REQUIRE(begin >= ram.host);
          REQUIRE(begin + segment.iov_len <= ram.host + ram.size);
          REQUIRE(segment.iov_len > 0);
        }
        total += TotalBytes(part);
      }
      REQUIRE((*chain)->head() < 16);
      REQUIRE(total == std::uint64_t{(*chain)->readable_bytes()} + (*chain)->writable_bytes());
      REQUIRE((*chain)->readable().size() + (*chain)->writable().size() <= 32);
      f.queue.AddUsed((*chain)->head(), 0);
    }
    static_cast<void>(f.queue.PublishUsed());
  }
}

TEST_CASE("segments: copies and subranges across boundaries") {
  std::vector<std::byte> a(3, std::byte{1});
  std::vector<std::byte> b(1, std::byte{2});
  std::vector<std::byte> c(4, std::byte{3});
  const std::vector<Segment> list{{a.data(), a.size()}, {b.data(), b.size()}, {c.data(), c.size()}};
  CHECK(TotalBytes(list) == 8);
  std::vector<std::byte> out(5);
  CHECK(CopyFrom(list, 2, out) == 5);
  CHECK(out == std::vector{std::byte{1}, std::byte{2}, std::byte{3}, std::byte{3}, std::byte{3}});
  CHECK(CopyFrom(list, 6, out) == 2);
  CHECK(CopyFrom(list, 8, out) == 0);
  CHECK(CopyFrom(list, UINT64_MAX, out) == 0);
  const std::vector<std::byte> in(4, std::byte{9});
  CHECK(CopyTo(list, 1, in) == 4);
  CHECK(a[0] == std::byte{1});
  CHECK(a[1] == std::byte{9});
  CHECK(b[0] == std::byte{9});
  CHECK(c[0] == std::byte{9});
  CHECK(c[1] == std::byte{3});
  const auto middle = Subrange(list, 3, 2);
  REQUIRE(middle.size() == 2);
  CHECK(middle[0].iov_base == b.data());
  CHECK(middle[1].iov_len == 1);
  CHECK(Subrange(list, 5, UINT64_MAX).front().iov_len == 3);
  CHECK(Subrange(list, 8, 1).empty());
  std::uint64_t value = 0;
  CHECK_FALSE(ReadStruct(list, 1, value));
  CHECK(ReadStruct(list, 0, value));
}

}  // namespace
}  // namespace embervm::virtio
