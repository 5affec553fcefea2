// TerminalRelay between a real pseudo-terminal, whose other side plays the person,
// and a socketpair, whose other side plays the guest.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <future>
#include <string>
#include <string_view>
#include <thread>

#include "pty/relay.h"

namespace embervm::pty {
namespace {

using std::chrono::milliseconds;
constexpr int kWaitMs = 10'000;

// A terminal emulator.
struct Emulator {
  Emulator() : person(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC)) {
    REQUIRE(person.valid());
    REQUIRE(::grantpt(person.get()) == 0);
    REQUIRE(::unlockpt(person.get()) == 0);
    std::array<char, 64> name{};
    REQUIRE(::ptsname_r(person.get(), name.data(), name.size()) == 0);
    terminal.Reset(::open(name.data(), O_RDWR | O_NOCTTY | O_CLOEXEC));
    REQUIRE(terminal.valid());
    const winsize size{.ws_row = 31, .ws_col = 97, .ws_xpixel = 0, .ws_ypixel = 0};
    REQUIRE(::ioctl(person.get(), TIOCSWINSZ, &size) == 0);
  }

  [[nodiscard]] tcflag_t LocalMode() const {
    termios mode{};
    // That of a terminal whose other side is closed cannot be read: none of it is set.
    return ::tcgetattr(terminal.get(), &mode) == 0 ? mode.c_lflag : 0;
  }
  [[nodiscard]] bool IsRaw() const {
    termios mode{};
    return ::tcgetattr(terminal.get(), &mode) == 0 && (mode.c_lflag & (ICANON | ECHO | ISIG)) == 0;
  }

  UniqueFd person;
  UniqueFd terminal;
};

void Write(const UniqueFd& to, std::string_view text) {
  while (!text.empty()) {
    const ssize_t count = ::write(to.get(), text.data(), text.size());
    REQUIRE(count > 0);
    text.remove_prefix(static_cast<std::size_t>(count));
  }
}

std::string ReadSome(const UniqueFd& from, int timeout_ms = kWaitMs) {
  pollfd waiting{.fd = from.get(), .events = POLLIN, .revents = 0};
  if (::poll(&waiting, 1, timeout_ms) != 1) return {};
  std::array<char, 65536> bytes{};
  const ssize_t got = ::read(from.get(), bytes.data(), bytes.size());
  return got > 0 ? std::string(bytes.data(), static_cast<std::size_t>(got)) : std::string();
}

std::string Read(const UniqueFd& from, std::size_t size) {
  std::string all;
  while (all.size() < size) {
    const std::string more = ReadSome(from);
    if (more.empty()) break;
    all += more;
  }
  return all;
}

// A relay that runs, and its end.
struct Session {
  explicit Session(std::string_view keys = "\x1d") {
    std::array<int, 2> ends{};
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) == 0);
    guest.Reset(ends[0]);
    std::vector<std::byte> sequence;
    for (const char key : keys) sequence.push_back(static_cast<std::byte>(key));
    auto host = HostTerminal::Open(emulator.terminal.get(), emulator.terminal.get());
    REQUIRE(host.has_value());
    auto started = TerminalRelay::Start(std::move(*host), UniqueFd(ends[1]), DetachKeys(sequence),
                                        [this](RelayEnd reason) {
                                          raw_at_end = emulator.IsRaw();
                                          end.set_value(reason);
                                        });
    REQUIRE(started.has_value());
    relay = std::move(*started);
    CHECK(emulator.IsRaw());
  }

  RelayEnd End() {
    auto future = end.get_future();
    REQUIRE(future.wait_for(milliseconds(kWaitMs)) == std::future_status::ready);
    CHECK(!raw_at_end);
    CHECK(emulator.LocalMode() == before);
    return future.get();
  }

  Emulator emulator;
  tcflag_t before = emulator.LocalMode();
  UniqueFd guest;
  std::promise<RelayEnd> end;
  std::atomic<bool> raw_at_end = true;
  std::unique_ptr<TerminalRelay> relay;
};

TEST_CASE("bytes pass both ways as they are") {
  Session session;
  Write(session.emulator.person, "\x03\x1a\x11\x13\r\n\xff");
  CHECK(Read(session.guest, 7) == "\x03\x1a\x11\x13\r\n\xff");
  Write(session.guest, "a\nb\tc");
  CHECK(Read(session.emulator.person, 5) == "a\nb\tc");
}

TEST_CASE("the end of the stream restores the mode, after all that was sent") {
  Session session;
  const std::string text(300'000, 'x');
  std::thread guest([&] {
    Write(session.guest, text);
    session.guest.Reset();
  });
  CHECK(Read(session.emulator.person, text.size()) == text);
  guest.join();
  CHECK(session.End() == RelayEnd::kStreamEnded);
}

TEST_CASE("the keys detach") {
  Session session("\x10\x11");
  Write(session.emulator.person, "ls\x10x\x10\x11");
  CHECK(session.End() == RelayEnd::kDetached);
  CHECK(Read(session.guest, 4) == "ls\x10x");
  CHECK(ReadSome(session.guest).empty());
}

TEST_CASE("the keys detach from a guest that reads nothing") {
  Session session;
  // More than the buffers between take: the relay's and the socket's.
  const int flags = ::fcntl(session.emulator.person.get(), F_GETFL);
  REQUIRE(::fcntl(session.emulator.person.get(), F_SETFL, flags | O_NONBLOCK) == 0);
  const std::string text(1000, 'k');
  for (int i = 0; i < 20; i++) {
    [[maybe_unused]] const ssize_t count =
        ::write(session.emulator.person.get(), text.data(), text.size());
    std::this_thread::sleep_for(milliseconds(5));
  }
  Write(session.emulator.person, "\x1d");
  CHECK(session.End() == RelayEnd::kDetached);
}

TEST_CASE("Stop() ends it, and so does its destructor") {
  {
    Session session;
    session.relay->Stop();
    CHECK(session.End() == RelayEnd::kStopped);
    CHECK(ReadSome(session.guest).empty());
  }
  Session session;
  session.relay.reset();
  CHECK(session.End() == RelayEnd::kStopped);
}

TEST_CASE("a terminal that is closed ends it") {
  Session session;
  session.emulator.person.Reset();
  auto future = session.end.get_future();
  REQUIRE(future.wait_for(milliseconds(kWaitMs)) == std::future_status::ready);
  CHECK(future.get() == RelayEnd::kTerminalGone);
  CHECK(ReadSome(session.guest).empty());
}

TEST_CASE("a guest that dies while the terminal takes nothing does not leave it raw") {
  Session session;
  // Nobody reads the emulator's side, so the terminal is full at some point.
  REQUIRE(::fcntl(session.guest.get(), F_SETFL, O_NONBLOCK) == 0);
  const std::string text(65536, 'x');
  for (int i = 0; i < 50; i++) {
    [[maybe_unused]] const ssize_t count = ::write(session.guest.get(), text.data(), text.size());
    std::this_thread::sleep_for(milliseconds(2));
  }
  CHECK(session.emulator.IsRaw());
  session.guest.Reset();
  CHECK(session.End() == RelayEnd::kStreamEnded);
}

TEST_CASE("a slow terminal stops the sender, and nothing is lost") {
  Session session;
  std::string text;
  for (int i = 0; i < 40'000; i++) text += std::to_string(i) + "\n";
  std::thread guest([&] { Write(session.guest, text); });
  std::this_thread::sleep_for(milliseconds(100));
  CHECK(Read(session.emulator.person, text.size()) == text);
  guest.join();
}

TEST_CASE("the size is that of the terminal") {
  const Session session;
  const auto size = session.relay->Size();
  REQUIRE(size.has_value());
  CHECK(size->rows == 31);
  CHECK(size->cols == 97);
}

TEST_CASE("what is no terminal is refused") {
  const Emulator emulator;
  const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  const auto open = [](int input, int output) {
    auto terminal = HostTerminal::Open(input, output);
    return terminal.has_value() ? std::string() : terminal.error().code();
  };
  CHECK(open(null.get(), emulator.terminal.get()) == "ERR_NOT_A_TERMINAL");
  CHECK(open(emulator.terminal.get(), null.get()) == "ERR_NOT_A_TERMINAL");
  CHECK(open(emulator.person.get(), emulator.person.get()) == "ERR_NOT_A_TERMINAL");
  CHECK(open(-1, emulator.terminal.get()) == "ERR_TERMINAL");
  CHECK(open(emulator.terminal.get(), emulator.terminal.get()).empty());
}

TEST_CASE("a terminal has one relay at a time") {
  const Emulator emulator;
  const Emulator other;
  const int fd = emulator.terminal.get();
  {
    const auto first = HostTerminal::Open(fd, fd);
    REQUIRE(first.has_value());
    const auto second = HostTerminal::Open(other.terminal.get(), fd);
    REQUIRE(!second.has_value());
    CHECK(second.error().code() == "ERR_TERMINAL");
    // What the failed attempt had taken is free again.
    CHECK(HostTerminal::Open(other.terminal.get(), other.terminal.get()).has_value());
  }
  CHECK(HostTerminal::Open(fd, fd).has_value());
}

TEST_CASE("descriptors of the caller keep their flags") {
  Session session;
  CHECK((::fcntl(session.emulator.terminal.get(), F_GETFL) & O_NONBLOCK) == 0);
  session.relay.reset();
  CHECK((::fcntl(session.emulator.terminal.get(), F_GETFL) & O_NONBLOCK) == 0);
}

}  // namespace
}  // namespace embervm::pty
