// Machines and vCPUs on real KVM: exits, slots, event descriptors, state,
// statistics, and leaving a running guest from another thread.
#include <doctest/doctest.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstring>
#include <initializer_list>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "base/bytes.h"
#include "base/mapping.h"
#include "base/thread.h"
#include "kvm/host_kind.h"
#include "kvm/kick.h"
#include "test/kvm_micro_guest.h"

namespace embervm::test {
namespace {

constexpr GuestAddr kMmio = 0x1f0000;
// Outside RAM: where a device's registers would be.
constexpr GuestAddr kDevice = 0xfeb00000;
constexpr std::uint64_t kCacheDisable = 1U << 4U;

// A guest with a page of device registers mapped at kMmio.
class DeviceGuest : public MicroGuest {
 public:
  DeviceGuest() {
    MapPageTo(kMmio, kDevice, kPresent | kWritable | kCacheDisable);
    regs.rsi = kMmio;
    regs.rflags = 2;
    regs.rsp = kStack;
  }
  void Place(std::initializer_list<std::uint8_t> code) {
    REQUIRE(memory().Write(kCode, std::as_bytes(std::span(code.begin(), code.size()))).has_value());
    regs.rip = kCode;
    REQUIRE(vcpu().SetRegs(regs).has_value());
  }
  VcpuExit Next() {
    auto exit = vcpu().Run();
    REQUIRE(exit.has_value());
    return *exit;
  }
};

std::uint64_t Drain(int fd) {
  std::uint64_t count = 0;
  return ::read(fd, &count, sizeof(count)) == sizeof(count) ? count : 0;
}

TEST_CASE("memory-mapped and port accesses exit with their data") {
  if (!HaveKvm()) return;
  DeviceGuest guest;
  guest.regs.rax = 0x11223344;
  guest.regs.rdx = 0x1234;
  // mov %eax,8(%rsi); mov 4(%rsi),%ecx; out %ax,(%dx); in (%dx),%eax; hlt
  guest.Place({0x89, 0x46, 0x08, 0x8b, 0x4e, 0x04, 0x66, 0xef, 0xed, 0xf4});
  {
    const VcpuExit exit = guest.Next();
    const auto* write = std::get_if<MmioWrite>(&exit);
    REQUIRE(write != nullptr);
    CHECK(write->addr == kDevice + 8);
    REQUIRE(write->data.size() == 4);
    CHECK(LoadLe<std::uint32_t>(write->data) == 0x11223344);
  }
  {
    const VcpuExit exit = guest.Next();
    const auto* read = std::get_if<MmioRead>(&exit);
    REQUIRE(read != nullptr);
    CHECK(read->addr == kDevice + 4);
    StoreLe(read->data, 0, std::uint32_t{0xcafebabe});
  }
  {
    const VcpuExit exit = guest.Next();
    const auto* out = std::get_if<IoOut>(&exit);
    REQUIRE(out != nullptr);
    CHECK(out->port == 0x1234);
    CHECK(out->size == 2);
    CHECK(out->count == 1);
    CHECK(LoadLe<std::uint16_t>(out->data) == 0x3344);
  }
  {
    const VcpuExit exit = guest.Next();
    const auto* in = std::get_if<IoIn>(&exit);
    REQUIRE(in != nullptr);
    CHECK(in->size == 4);
    StoreLe(in->data, 0, std::uint32_t{0x55667788});
  }
  CHECK(std::holds_alternative<Halt>(guest.Next()));
  CHECK(guest.vcpu().GetRegs()->rcx == 0xcafebabe);
  CHECK(guest.vcpu().GetRegs()->rax == 0x55667788);
}

TEST_CASE("string output gives the bytes in order") {
  if (!HaveKvm()) return;
  DeviceGuest guest;
  guest.Put(MicroGuest::kData, std::array<char, 5>{'h', 'e', 'l', 'l', 'o'});
  guest.regs.rsi = MicroGuest::kData;
  guest.regs.rcx = 5;
  guest.regs.rdx = 0x3f8;
  guest.Place({0xf3, 0x6e, 0xf4});  // rep outsb; hlt
  std::string text;
  for (int i = 0; i < 6; ++i) {
    const VcpuExit exit = guest.Next();
    const auto* out = std::get_if<IoOut>(&exit);
    if (out == nullptr) break;
    CHECK(out->data.size() == std::size_t{out->size} * out->count);
    for (const std::byte byte : out->data) text += static_cast<char>(byte);
  }
  CHECK(text == "hello");
}

TEST_CASE("a triple fault is a shutdown") {
  if (!HaveKvm()) return;
  DeviceGuest guest;
  guest.EditSregs([](kvm_sregs& sregs) { sregs.idt.limit = 0; });
  guest.Place({0x0f, 0x0b});  // ud2
  CHECK(std::holds_alternative<Shutdown>(guest.Next()));
}

TEST_CASE("an ioeventfd takes matching writes and nothing else") {
  if (!HaveKvm()) return;
  DeviceGuest guest;
  const UniqueFd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  const KvmVm::IoEvent notify{.addr = kDevice + 0x50, .length = 4, .datamatch = 3};
  REQUIRE(guest.vm().AddIoEventFd(notify, event.get()).has_value());
  // movl $3,0x50(%rsi); movl $4,0x50(%rsi); movl $3,0x54(%rsi)
  const std::initializer_list<std::uint8_t> code = {0xc7, 0x46, 0x50, 3, 0, 0,   0,    0xc7,
                                                    0x46, 0x50, 4,    0, 0, 0,   0xc7, 0x46,
                                                    0x54, 3,    0,    0, 0, 0xf4};
  guest.Place(code);
  VcpuExit exit = guest.Next();
  CHECK(LoadLe<std::uint32_t>(std::get<MmioWrite>(exit).data) == 4);
  CHECK(Drain(event.get()) == 1);
  exit = guest.Next();
  CHECK(std::get<MmioWrite>(exit).addr == kDevice + 0x54);
  CHECK(Drain(event.get()) == 0);

  // The same event twice is refused; removed, the write exits again.
  CHECK(!guest.vm().AddIoEventFd(notify, event.get()).has_value());
  REQUIRE(guest.vm().RemoveIoEventFd(notify, event.get()).has_value());
  CHECK(!guest.vm().RemoveIoEventFd(notify, event.get()).has_value());
  guest.Place(code);
  exit = guest.Next();
  CHECK(LoadLe<std::uint32_t>(std::get<MmioWrite>(exit).data) == 3);
}

TEST_CASE("a read-only slot answers reads and lets writes exit") {
  if (!HaveKvm()) return;
  DeviceGuest guest;
  auto page = Mapping::Create(4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0,
                              "register page");
  REQUIRE(page.has_value());
  StoreLe(page->bytes(), 0, std::uint32_t{0x74726976});
  const auto slot = guest.vm().AddReadOnlySlot(kDevice, page->bytes());
  REQUIRE(slot.has_value());
  CHECK(*slot == 1);
  guest.Place({0x8b, 0x06, 0x89, 0x46, 0x70, 0xf4});  // mov (%rsi),%eax; mov %eax,0x70(%rsi)
  VcpuExit exit = guest.Next();
  CHECK(std::get<MmioWrite>(exit).addr == kDevice + 0x70);
  CHECK(guest.vcpu().GetRegs()->rax == 0x74726976);
  CHECK(std::holds_alternative<Halt>(guest.Next()));

  REQUIRE(guest.vm().RemoveSlot(*slot).has_value());
  guest.Place({0x8b, 0x06, 0xf4});
  exit = guest.Next();
  CHECK(std::holds_alternative<MmioRead>(exit));
  // The number is used again.
  CHECK(*guest.vm().AddReadOnlySlot(kDevice, page->bytes()) == 1);
}

TEST_CASE("interrupt lines need the interrupt controllers") {
  if (!HaveKvm()) return;
  auto kvm = Kvm::Open();
  auto vm = kvm->CreateVm();
  REQUIRE(vm.has_value());
  const UniqueFd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  const auto early = vm->AddIrqFd(5, event.get());
  REQUIRE(!early.has_value());
  CHECK(early.error().code() == "ERR_KVM_IOCTL");
  CHECK(early.error().syscall() == "ioctl(KVM_IRQFD)");
  REQUIRE(vm->CreateIrqchip().has_value());
  REQUIRE(vm->CreatePit().has_value());
  REQUIRE(vm->AddIrqFd(5, event.get()).has_value());
  CHECK(!vm->AddIrqFd(5, event.get()).has_value());
  REQUIRE(vm->RemoveIrqFd(5, event.get()).has_value());
  REQUIRE(vm->SetIrqLine(6, true).has_value());
  REQUIRE(vm->SetIrqLine(6, false).has_value());
  CHECK(vm->GetPit().has_value());
  CHECK(vm->GetClock().has_value());
  const auto ioapic = vm->GetIrqchip(KVM_IRQCHIP_IOAPIC);
  REQUIRE(ioapic.has_value());
  CHECK(vm->SetIrqchip(*ioapic).has_value());
  CHECK(!vm->GetIrqchip(77).has_value());
  auto vcpu = vm->CreateVcpu(0);
  REQUIRE(vcpu.has_value());
  CHECK(vcpu->GetLapic().has_value());
  CHECK(!vm->CreateVcpu(0).has_value());
}

TEST_CASE("state goes in and comes out") {
  if (!HaveKvm()) return;
  MicroGuest guest;
  KvmVcpu& vcpu = guest.vcpu();
  std::array msrs{kvm_msr_entry{.index = 0xc0000102, .reserved = 0, .data = 0xffff888000001000}};
  REQUIRE(vcpu.SetMsrs(msrs).has_value());
  msrs[0].data = 0;
  REQUIRE(vcpu.GetMsrs(msrs).has_value());
  CHECK(msrs[0].data == 0xffff888000001000);
  // More than one call takes.
  std::vector<kvm_msr_entry> many(600,
                                  kvm_msr_entry{.index = 0xc0000102, .reserved = 0, .data = 0});
  REQUIRE(vcpu.GetMsrs(many).has_value());
  CHECK(many.back().data == 0xffff888000001000);
  many[300].index = 0xdead;
  const auto refused = vcpu.GetMsrs(many);
  REQUIRE(!refused.has_value());
  REQUIRE(!refused.error().context().empty());
  CHECK(refused.error().context().front().first == "msr");
  CHECK(std::get<std::int64_t>(refused.error().context().front().second) == 0xdead);

  const auto xsave = vcpu.GetXsave();
  REQUIRE(xsave.has_value());
  CHECK(vcpu.SetXsave(*xsave).has_value());
  CHECK(vcpu.SetDebugRegs(*vcpu.GetDebugRegs()).has_value());
  CHECK(vcpu.SetMpState(*vcpu.GetMpState()).has_value());
  CHECK(vcpu.SetEvents(*vcpu.GetEvents()).has_value());
  CHECK(vcpu.SetXcrs(*vcpu.GetXcrs()).has_value());
  CHECK(!vcpu.GetCpuid()->entries().empty());
  CHECK(vcpu.MarkClockPaused().has_value());
}

TEST_CASE("statistics count emulated instructions where the host emulates") {
  if (!HaveKvm()) return;
  MicroGuest guest;
  const auto stats = guest.vcpu().OpenStats();
  REQUIRE(stats.has_value());
  const auto before = stats->Read();
  REQUIRE(before.has_value());
  // 1000 times around a loop of two instructions.
  guest.regs.rcx = 1000;
  CHECK(guest.Run({0x48, 0xff, 0xc9, 0x75, 0xfb}).kind == Outcome::Kind::kHalted);
  const auto after = stats->Read();
  REQUIRE(after.has_value());
  REQUIRE(after->exits.has_value());
  CHECK(*after->exits > *before->exits);
  if (NeedsEmulationFixups(DetectHostKind())) {
    REQUIRE(after->emulated_instructions.has_value());
    CHECK(*after->emulated_instructions - *before->emulated_instructions >= 2000);
  }
}

TEST_CASE("statistics count how long a CPU was halted, in parts that KVM adds up") {
  if (!HaveKvm()) return;
  MicroGuest guest;
  const auto stats = guest.vcpu().OpenStats();
  REQUIRE(stats.has_value());
  const auto values = stats->Read();
  REQUIRE(values.has_value());
  REQUIRE(values->halted_ns.has_value());
  // Its halts come to us: there is no interrupt controller that could wake it.
  CHECK(*values->halted_ns == 0);
}

TEST_CASE("immediate_exit returns before the guest runs") {
  if (!HaveKvm()) return;
  DeviceGuest guest;
  guest.Place({0xf4});
  guest.vcpu().set_immediate_exit(true);
  for (int i = 0; i < 3; ++i) CHECK(std::holds_alternative<Interrupted>(guest.Next()));
  CHECK(guest.vcpu().GetRegs()->rip == MicroGuest::kCode);
  guest.vcpu().set_immediate_exit(false);
  CHECK(std::holds_alternative<Halt>(guest.Next()));
}

TEST_CASE("immediate_exit completes the access of the exit before") {
  if (!HaveKvm()) return;
  DeviceGuest guest;
  guest.Place({0x8b, 0x0e, 0xf4});  // mov (%rsi),%ecx; hlt
  VcpuExit exit = guest.Next();
  StoreLe(std::get<MmioRead>(exit).data, 0, std::uint32_t{42});
  guest.vcpu().set_immediate_exit(true);
  CHECK(std::holds_alternative<Interrupted>(guest.Next()));
  CHECK(guest.vcpu().GetRegs()->rcx == 42);
  CHECK(guest.vcpu().GetRegs()->rip == MicroGuest::kCode + 2);
}

TEST_CASE("another thread takes a vCPU out of an endless loop, many times") {
  if (!HaveKvm()) return;
  const auto signal = KickSignal();
  REQUIRE(signal.has_value());
  DeviceGuest guest;
  guest.Place({0xeb, 0xfe});  // jmp .
  constexpr int kRounds = 50;
  std::atomic<int> entered{0};
  std::atomic<int> left{0};
  auto thread = Thread::Start("test-vcpu", [&] {
    if (!UnblockKickSignal(*signal)) return;
    for (int round = 1; round <= kRounds; ++round) {
      entered.store(round);
      const auto exit = guest.vcpu().Run();
      if (!exit || !std::holds_alternative<Interrupted>(*exit)) return;
      guest.vcpu().set_immediate_exit(false);
      left.store(round);
    }
  });
  REQUIRE(thread.has_value());
  for (int round = 1; round <= kRounds; ++round) {
    while (entered.load() < round) std::this_thread::yield();
    // Without a pause in odd rounds: the signal may land before KVM_RUN.
    if (round % 2 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    guest.vcpu().set_immediate_exit(true);
    Kick(thread->handle(), *signal);
    while (left.load() < round) std::this_thread::yield();
  }
  thread->Join();
  CHECK(left.load() == kRounds);
}

TEST_CASE("the kick signal is one of nobody else's, and stays the same") {
  const auto signal = KickSignal();
  REQUIRE(signal.has_value());
  CHECK(*signal >= SIGRTMIN);
  CHECK(*signal <= SIGRTMAX);
  CHECK(*KickSignal() == *signal);
  struct sigaction action{};
  REQUIRE(::sigaction(*signal, nullptr, &action) == 0);
  const bool installed = action.sa_handler != SIG_DFL;
  CHECK(installed);
  CHECK((action.sa_flags & SA_RESTART) == 0);
  // Only one was taken.
  int handled = 0;
  for (int other = SIGRTMIN; other <= SIGRTMAX; ++other) {
    struct sigaction current{};
    REQUIRE(::sigaction(other, nullptr, &current) == 0);
    if (current.sa_handler == action.sa_handler) ++handled;
  }
  CHECK(handled == 1);
}

}  // namespace
}  // namespace embervm::test
