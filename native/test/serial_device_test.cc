// The 8250, probed and used the way Linux does.
#include <doctest/doctest.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "devices/console/ring.h"
#include "devices/serial/device.h"

namespace embervm::devices {
namespace {

constexpr std::uint16_t kThr = 0;
constexpr std::uint16_t kIer = 1;
constexpr std::uint16_t kIir = 2;
constexpr std::uint16_t kLcr = 3;
constexpr std::uint16_t kMcr = 4;
constexpr std::uint16_t kLsr = 5;
constexpr std::uint16_t kMsr = 6;
constexpr std::uint16_t kScr = 7;

struct Fixture {
  std::unique_ptr<ConsoleRing> ring = ConsoleRing::Create(4096, nullptr).value();
  std::unique_ptr<SerialDevice> serial = SerialDevice::Create(*ring).value();

  std::string Output() const {
    std::string text;
    for (const std::byte byte : ring->Tail(4096)) text.push_back(static_cast<char>(byte));
    return text;
  }
  // The interrupts that were raised since the last call.
  std::uint64_t Interrupts() const {
    std::uint64_t count = 0;
    return ::read(serial->irq_fd(), &count, sizeof(count)) == sizeof(count) ? count : 0;
  }
};

TEST_CASE("serial: what is written comes out, and the line is always idle") {
  Fixture f;
  for (const char character : std::string("panic: out of coffee\n")) {
    CHECK((f.serial->Read(kLsr) & 0x60) == 0x60);
    f.serial->Write(kThr, static_cast<std::uint8_t>(character));
  }
  CHECK(f.Output() == "panic: out of coffee\n");
  CHECK(f.Interrupts() == 0);
  CHECK((f.serial->Read(kLsr) & 1) == 0);  // Nothing to receive.
  CHECK(f.serial->Read(kThr) == 0);
}

TEST_CASE("serial: Linux' autoconfig finds a 16550A") {
  Fixture f;
  f.serial->Write(kIer, 0);
  CHECK(f.serial->Read(kIer) == 0);
  f.serial->Write(kIer, 0xff);
  CHECK(f.serial->Read(kIer) == 0x0f);
  f.serial->Write(kIer, 0);
  f.serial->Write(kMcr, 0x10 | 0x0a);
  CHECK((f.serial->Read(kMsr) & 0xf0) == 0x90);
  f.serial->Write(kMcr, 0x10 | 0x05);
  CHECK((f.serial->Read(kMsr) & 0xf0) == 0x60);
  f.serial->Write(kMcr, 0);
  CHECK((f.serial->Read(kMsr) & 0xb0) == 0xb0);
  f.serial->Write(kIir, 1);
  CHECK((f.serial->Read(kIir) >> 6) == 3);
  f.serial->Write(kIir, 0);
  CHECK((f.serial->Read(kIir) >> 6) == 0);
  f.serial->Write(kScr, 0x5a);
  CHECK(f.serial->Read(kScr) == 0x5a);
}

TEST_CASE("serial: the divisor latch hides data and interrupt enable") {
  Fixture f;
  f.serial->Write(kIer, 0);
  f.serial->Write(kLcr, 0x83);
  f.serial->Write(0, 0x0c);
  f.serial->Write(1, 0x02);
  CHECK(f.serial->Read(0) == 0x0c);
  CHECK(f.serial->Read(1) == 0x02);
  f.serial->Write(kLcr, 0x03);
  CHECK(f.serial->Read(kLcr) == 0x03);
  CHECK(f.serial->Read(kIer) == 0);
  CHECK(f.Output().empty());
}

TEST_CASE("serial: the transmitter-empty interrupt") {
  Fixture f;
  CHECK(f.serial->Read(kIir) == 1);
  f.serial->Write(kIer, 2);
  CHECK(f.Interrupts() == 1);
  CHECK(f.serial->Read(kIir) == 2);
  CHECK(f.serial->Read(kIir) == 1);  // Reading acknowledged it.
  f.serial->Write(kIer, 0);
  f.serial->Write(kIer, 2);  // Linux checks that it is raised again.
  CHECK(f.Interrupts() == 1);
  CHECK(f.serial->Read(kIir) == 2);
  f.serial->Write(kThr, 'x');
  CHECK(f.Interrupts() == 1);
  f.serial->Write(kIer, 0);
  CHECK(f.serial->Read(kIir) == 1);
}

TEST_CASE("serial: loopback sends nothing, and other offsets are not there") {
  Fixture f;
  f.serial->Write(kMcr, 0x10);
  f.serial->Write(kThr, 'x');
  CHECK(f.Output().empty());
  CHECK(f.serial->Read(8) == 0xff);
  CHECK(f.serial->Read(0xffff) == 0xff);
  f.serial->Write(8, 1);
  f.serial->Write(kLsr, 0);
  f.serial->Write(kMsr, 0);
  CHECK(f.serial->Read(kLsr) == 0x60);
}

TEST_CASE("serial: several vCPUs write at once") {
  Fixture f;
  std::vector<std::thread> vcpus;
  for (int id = 0; id < 4; ++id) {
    vcpus.emplace_back([&f] {
      for (int i = 0; i < 500; ++i) {
        f.serial->Write(kThr, 'x');
        f.serial->Write(kIer, static_cast<std::uint8_t>(i));
        static_cast<void>(f.serial->Read(static_cast<std::uint16_t>(i % 8)));
      }
    });
  }
  for (std::thread& vcpu : vcpus) vcpu.join();
  CHECK(f.ring->counters().bytes == 2000);
}

}  // namespace
}  // namespace embervm::devices
