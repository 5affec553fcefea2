// LoadGuest and ConfigureVcpu on real KVM: the first instruction of a kernel
// sees what its boot protocol promises.
#include <doctest/doctest.h>

#include <string>
#include <variant>
#include <vector>

#include "arch/x86_64/boot.h"
#include "arch/x86_64/layout.h"
#include "kvm/kvm.h"
#include "test/arch_kernel_image.h"
#include "test/kvm_micro_guest.h"
#include "test/support/temp_file.h"

namespace embervm::test {
namespace {

struct Entered {
  kvm_regs regs;
  kvm_sregs sregs;
  std::uint32_t secondary_state;
};

// Boots two vCPUs' worth of `out %al, $0x80` and looks at the first.
Entered Enter(BootProtocol protocol) {
  ElfImage image;
  image.text = {0xe6, 0x80};
  image.text.resize(0x40, 0x90);
  image.text.at(0x10) = 0xe6;
  image.text.at(0x11) = 0x80;
  const TempFile file(0);
  file.Write(0, image.Bytes());

  auto kvm = Kvm::Open();
  REQUIRE(kvm.has_value());
  auto memory = GuestMemory::Create(16U << 20U);
  REQUIRE(memory.has_value());
  auto vm = kvm->CreateVm();
  REQUIRE(vm.has_value());
  REQUIRE(vm->SetTssAddress(layout::kTss).has_value());
  REQUIRE(vm->SetMemory(*memory).has_value());
  REQUIRE(vm->CreateIrqchip().has_value());
  REQUIRE(vm->CreatePit().has_value());
  const BootConfig config{.kernel_path = file.path(),
                          .initrd_path = std::nullopt,
                          .command_line = "quiet",
                          .vcpus = 2,
                          .preferred_protocol = protocol};
  const auto info = LoadGuest(*memory, config);
  REQUIRE(info.has_value());
  CHECK(info->protocol == protocol);
  const auto cpuid = kvm->SupportedCpuid();
  REQUIRE(cpuid.has_value());
  std::vector<KvmVcpu> vcpus;
  for (std::uint32_t i = 0; i < 2; ++i) {
    auto vcpu = vm->CreateVcpu(i);
    REQUIRE(vcpu.has_value());
    const auto configured = ConfigureVcpu(*vcpu, i, 2, *info, *cpuid, DetectHostKind());
    REQUIRE(configured.has_value());
    vcpus.push_back(std::move(*vcpu));
  }
  const auto exit = vcpus[0].Run();
  REQUIRE(exit.has_value());
  const auto* out = std::get_if<IoOut>(&*exit);
  REQUIRE(out != nullptr);
  CHECK(out->port == 0x80);
  const auto lapic = vcpus[0].GetLapic();
  REQUIRE(lapic.has_value());
  const auto registers = std::as_bytes(std::span(lapic->regs));
  CHECK((LoadLe<std::uint32_t>(registers, 0x350) >> 8U & 7U) == 7);
  CHECK((LoadLe<std::uint32_t>(registers, 0x360) >> 8U & 7U) == 4);
  return {*vcpus[0].GetRegs(), *vcpus[0].GetSregs(), vcpus[1].GetMpState()->mp_state};
}

TEST_CASE("the 64-bit entry") {
  if (!HaveKvm()) return;
  const Entered entered = Enter(BootProtocol::kLinux64);
  CHECK(entered.regs.rsi == layout::kBootParams);
  CHECK(entered.regs.rsp == layout::kBootStack);
  CHECK(entered.sregs.cs.l == 1);
  CHECK(entered.sregs.cs.selector == 0x10);
  CHECK(entered.sregs.ds.selector == 0x18);
  CHECK((entered.sregs.efer & 0x500U) == 0x500);
  CHECK((entered.sregs.cr0 & 0x80000001U) == 0x80000001U);
  CHECK(entered.secondary_state == KVM_MP_STATE_UNINITIALIZED);
}

TEST_CASE("the PVH entry") {
  if (!HaveKvm()) return;
  const Entered entered = Enter(BootProtocol::kPvh);
  CHECK(entered.regs.rbx == layout::kPvhStartInfo);
  CHECK(entered.sregs.cs.l == 0);
  CHECK(entered.sregs.cs.db == 1);
  CHECK((entered.sregs.cr0 & 0x80000001U) == 1);
  CHECK(entered.sregs.cr4 == 0);
}

TEST_CASE("LoadGuest refuses what cannot boot") {
  auto memory = GuestMemory::Create(16U << 20U);
  REQUIRE(memory.has_value());
  const TempFile file(0);
  file.Write(0, ElfImage().Bytes());
  BootConfig config{.kernel_path = file.path(),
                    .initrd_path = std::nullopt,
                    .command_line = std::string(5000, 'x')};
  CHECK(LoadGuest(*memory, config).error().code() == "ERR_COMMAND_LINE_TOO_LONG");
  config.command_line = "quiet";
  config.vcpus = 0;
  CHECK(LoadGuest(*memory, config).error().code() == "ERR_INVALID_CONFIG");
  config.vcpus = 1;
  config.initrd_path = "/absent";
  CHECK(LoadGuest(*memory, config).error().code() == "ERR_KERNEL_NOT_FOUND");
  config.initrd_path.reset();
  CHECK(LoadGuest(*memory, config).has_value());
  // A machine of one page has no room for any kernel.
  auto tiny = GuestMemory::Create(4096);
  REQUIRE(tiny.has_value());
  CHECK(LoadGuest(*tiny, config).error().code() == "ERR_KERNEL_TOO_LARGE");
}

}  // namespace
}  // namespace embervm::test
