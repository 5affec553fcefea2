// EventLoop: timers, descriptors that come and go within a batch, posts from
// many threads.
#include <doctest/doctest.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <thread>
#include <vector>

#include "base/event_loop.h"

namespace embervm {
namespace {

using std::chrono::milliseconds;

std::unique_ptr<EventLoop> MakeLoop() {
  auto loop = EventLoop::Create();
  REQUIRE(loop.has_value());
  return std::move(*loop);
}

UniqueFd MakeEvent(unsigned count = 0) {
  UniqueFd fd(::eventfd(count, EFD_CLOEXEC | EFD_NONBLOCK));
  REQUIRE(fd.valid());
  return fd;
}

TEST_CASE("timers run in the order of their deadlines") {
  auto loop = MakeLoop();
  std::vector<int> order;
  const auto start = EventLoop::Clock::now();
  loop->AddTimer(milliseconds(30), [&] {
    order.push_back(3);
    loop->Stop();
  });
  loop->AddTimer(milliseconds(10), [&] { order.push_back(1); });
  loop->AddTimer(milliseconds(10), [&] { order.push_back(2); });
  const auto cancelled = loop->AddTimer(milliseconds(5), [&] { order.push_back(99); });
  loop->CancelTimer(cancelled);
  loop->CancelTimer(cancelled);
  loop->CancelTimer(12345);
  loop->Run();
  CHECK(order == std::vector<int>{1, 2, 3});
  CHECK(EventLoop::Clock::now() - start >= milliseconds(30));
}

TEST_CASE("a timer may add and cancel timers") {
  auto loop = MakeLoop();
  int runs = 0;
  EventLoop::TimerId victim = 0;
  std::function<void()> again = [&] {
    if (++runs == 5) {
      loop->Stop();
      return;
    }
    loop->CancelTimer(victim);
    victim = loop->AddTimer(milliseconds(200), [&] { runs = 1000; });
    loop->AddTimer(milliseconds(0), [&] { again(); });
  };
  loop->AddTimer(milliseconds(0), [&] { again(); });
  loop->Run();
  CHECK(runs == 5);
}

TEST_CASE("a ready descriptor calls its handler until it is not") {
  auto loop = MakeLoop();
  const UniqueFd event = MakeEvent(3);
  int calls = 0;
  REQUIRE(loop->AddFd(event.get(), EPOLLIN,
                      [&](std::uint32_t events) {
                        CHECK((events & EPOLLIN) != 0);
                        if (++calls == 2) {  // Level triggered: it comes again until read.
                          std::uint64_t value = 0;
                          CHECK(::read(event.get(), &value, sizeof(value)) == sizeof(value));
                          CHECK(value == 3);
                          loop->AddTimer(milliseconds(5), [&] { loop->Stop(); });
                        }
                      })
              .has_value());
  // Twice is refused, and so are closed and unknown ones.
  CHECK(!loop->AddFd(event.get(), EPOLLIN, [](std::uint32_t) {}).has_value());
  CHECK(!loop->AddFd(-1, EPOLLIN, [](std::uint32_t) {}).has_value());
  CHECK(!loop->ModifyFd(9999, EPOLLIN).has_value());
  loop->RemoveFd(9999);
  loop->Run();
  CHECK(calls == 2);
  REQUIRE(loop->ModifyFd(event.get(), EPOLLOUT).has_value());
}

TEST_CASE("a handler may remove itself and others, and destroy what it captured") {
  auto loop = MakeLoop();
  std::array<UniqueFd, 3> events = {MakeEvent(1), MakeEvent(1), MakeEvent(1)};
  int calls = 0;
  for (auto& event : events) {
    auto token = std::make_shared<int>(7);
    REQUIRE(loop->AddFd(event.get(), EPOLLIN,
                        [&, token](std::uint32_t) {
                          ++calls;
                          for (auto& other : events) loop->RemoveFd(other.get());
                          CHECK(*token == 7);  // Still alive during its own call.
                          loop->Stop();
                        })
                .has_value());
  }
  loop->Run();
  // All three were ready in one batch; the first removed the rest.
  CHECK(calls == 1);
}

TEST_CASE("a descriptor number that is reused within a batch gets no stale event") {
  auto loop = MakeLoop();
  UniqueFd first = MakeEvent(1);
  UniqueFd second = MakeEvent(1);
  int stale = 0;
  UniqueFd reborn;
  const auto handler = [&](UniqueFd& other) {
    return [&](std::uint32_t) {
      if (reborn.valid()) {
        ++stale;
        return;
      }
      // Close the other, whose event is in this batch too, and get its number back.
      const int number = other.get();
      loop->RemoveFd(number);
      other.Reset();
      reborn = MakeEvent(0);
      REQUIRE(reborn.get() == number);
      REQUIRE(loop->AddFd(reborn.get(), EPOLLIN, [&](std::uint32_t) { ++stale; }).has_value());
      loop->RemoveFd(first.get());
      loop->RemoveFd(second.get());
      loop->AddTimer(milliseconds(10), [&] { loop->Stop(); });
    };
  };
  REQUIRE(loop->AddFd(first.get(), EPOLLIN, handler(second)).has_value());
  REQUIRE(loop->AddFd(second.get(), EPOLLIN, handler(first)).has_value());
  loop->Run();
  CHECK(stale == 0);
}

TEST_CASE("posts from many threads all run, each thread's in order") {
  auto loop = MakeLoop();
  constexpr int kThreads = 8;
  constexpr int kPosts = 2000;
  std::array<int, kThreads> next{};
  int out_of_order = 0;
  int total = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kPosts; ++i) {
        loop->Post([&, t, i] {
          if (next.at(static_cast<std::size_t>(t))++ != i) ++out_of_order;
          if (++total == kThreads * kPosts) loop->Stop();
        });
      }
    });
  }
  loop->Run();
  for (auto& thread : threads) thread.join();
  CHECK(total == kThreads * kPosts);
  CHECK(out_of_order == 0);
}

TEST_CASE("tasks posted before Stop run; later ones are destroyed, not run") {
  auto loop = MakeLoop();
  auto token = std::make_shared<int>(0);
  for (int i = 0; i < 10; ++i) loop->Post([token] { ++*token; });
  loop->Stop();
  loop->Run();
  CHECK(*token == 10);
  loop->Post([token] { *token = 1000; });
  loop.reset();
  CHECK(*token == 10);
  CHECK(token.use_count() == 1);
}

TEST_CASE("a task may post") {
  auto loop = MakeLoop();
  int depth = 0;
  std::function<void()> deeper = [&] {
    if (++depth == 100) {
      loop->Stop();
      return;
    }
    loop->Post([&] { deeper(); });
  };
  loop->Post([&] { deeper(); });
  loop->Run();
  CHECK(depth == 100);
}

TEST_CASE("the loop runs again after it stopped") {
  auto loop = MakeLoop();
  for (int i = 0; i < 3; ++i) {
    bool ran = false;
    loop->Post([&] { ran = true; });
    loop->Stop();
    loop->Run();
    CHECK(ran);
  }
}

}  // namespace
}  // namespace embervm
