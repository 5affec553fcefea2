#include "test/kvm_micro_guest.h"

#include <doctest/doctest.h>

#include <cstdio>
#include <variant>

#include "kvm/host_kind.h"

namespace embervm::test {

namespace {

constexpr std::uint64_t kMemorySize = 16U << 20U;
constexpr GuestAddr kPml4 = 0x1000;
constexpr GuestAddr kPdpt = 0x2000;
constexpr GuestAddr kPd = 0x3000;
constexpr GuestAddr kPt = 0x4000;
constexpr GuestAddr kIdt = 0x5000;
constexpr GuestAddr kHandlers = 0x6000;
constexpr GuestAddr kGdt = 0x7000;
constexpr unsigned kVectors = 32;
constexpr std::uint64_t kHandlerStride = 16;
constexpr std::uint16_t kCodeSelector = 0x08;
constexpr std::uint16_t kDataSelector = 0x10;
constexpr unsigned kMaxExits = 1000;

constexpr bool HasErrorCode(unsigned vector) {
  return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21;
}

kvm_segment Segment(std::uint16_t selector, bool code) {
  kvm_segment segment{};
  segment.limit = 0xffffffff;
  segment.selector = selector;
  segment.type = code ? 11 : 3;
  segment.present = 1;
  segment.s = 1;
  segment.l = code ? 1 : 0;
  segment.db = code ? 0 : 1;
  segment.g = 1;
  return segment;
}

}  // namespace

bool HaveKvm() {
  const auto kvm = Kvm::Open();
  if (kvm) return true;
  std::printf("skipped: %s\n", kvm.error().message().c_str());
  return false;
}

MicroGuest::MicroGuest(bool with_fixups) {
  auto kvm = Kvm::Open();
  REQUIRE(kvm.has_value());
  auto memory = GuestMemory::Create(kMemorySize);
  REQUIRE(memory.has_value());
  memory_.emplace(std::move(*memory));
  auto vm = kvm->CreateVm();
  REQUIRE(vm.has_value());
  vm_.emplace(std::move(*vm));
  REQUIRE(vm_->SetTssAddress(0xfffbd000).has_value());
  REQUIRE(vm_->SetMemory(*memory_).has_value());
  if (with_fixups) {
    auto fixups = Fixups::Create(*vm_, *memory_);
    REQUIRE(fixups.has_value());
    fixups_ = std::move(*fixups);
  }
  auto vcpu = vm_->CreateVcpu(0);
  REQUIRE(vcpu.has_value());
  vcpu_.emplace(std::move(*vcpu));
  const auto cpuid = kvm->SupportedCpuid();
  REQUIRE(cpuid.has_value());
  REQUIRE(vcpu_->SetCpuid(*cpuid).has_value());
  BuildTables();
  EnterLongMode();
}

void MicroGuest::BuildTables() {
  constexpr std::uint64_t kTable = kPresent | kWritable | kUser;
  Put(kPml4, kPdpt | kTable);
  Put(kPdpt, kPd | kTable);
  Put(kPd, kPt | kTable);
  for (GuestAddr page = 0; page < (2U << 20U); page += kPage) MapPage(page, kPresent | kWritable);

  Put(kGdt, std::uint64_t{0});
  Put(kGdt + kCodeSelector, std::uint64_t{0x00af9b000000ffff});
  Put(kGdt + kDataSelector, std::uint64_t{0x00cf93000000ffff});
  for (unsigned vector = 0; vector < kVectors; ++vector) {
    const GuestAddr handler = kHandlers + vector * kHandlerStride;
    // out %al, $vector
    Put(handler, std::uint8_t{0xe6});
    Put(handler + 1, static_cast<std::uint8_t>(vector));
    // 64-bit interrupt gate, present, DPL 0.
    Put(kIdt + vector * 16, (handler & 0xffff) | (std::uint64_t{kCodeSelector} << 16U) |
                                (std::uint64_t{0x8e00} << 32U) | ((handler >> 16U) << 48U));
    Put(kIdt + vector * 16 + 8, handler >> 32U);
  }
}

void MicroGuest::EnterLongMode() {
  auto sregs = vcpu_->GetSregs();
  REQUIRE(sregs.has_value());
  sregs->cr3 = kPml4;
  sregs->cr4 = 0x620 | (1U << 18U);  // PAE, OSFXSR, OSXMMEXCPT, OSXSAVE
  sregs->cr0 = 0x80010033;           // PG, WP, NE, ET, MP, PE
  sregs->efer = 0xd00 | 1;           // NXE, LMA, LME, SCE
  sregs->cs = Segment(kCodeSelector, true);
  sregs->ds = sregs->es = sregs->fs = sregs->gs = sregs->ss = Segment(kDataSelector, false);
  sregs->gdt = {.base = kGdt, .limit = 0x17, .padding = {}};
  sregs->idt = {.base = kIdt, .limit = kVectors * 16 - 1, .padding = {}};
  REQUIRE(vcpu_->SetSregs(*sregs).has_value());
}

void MicroGuest::MapPageTo(GuestAddr virtual_address, GuestAddr physical, std::uint64_t flags) {
  const std::uint64_t entry = (flags & kPresent) != 0 ? physical | flags : 0;
  Put(kPt + (virtual_address / kPage) * 8, entry);
}

void MicroGuest::MapPage(GuestAddr addr, std::uint64_t flags) {
  MapPageTo(addr, addr & ~(kPage - 1), flags);
}

std::uint64_t MicroGuest::PageEntry(GuestAddr addr) const {
  return Get<std::uint64_t>(kPt + (addr / kPage) * 8);
}

Outcome MicroGuest::Run(std::span<const std::uint8_t> code, GuestAddr at) {
  REQUIRE(memory_->Write(at, std::as_bytes(code)).has_value());
  Put(at + code.size(), std::uint8_t{0xf4});
  regs.rip = at;
  if (regs.rsp == 0) regs.rsp = kStack;
  regs.rflags |= 2;
  REQUIRE(vcpu_->SetRegs(regs).has_value());
  Outcome outcome = Loop();
  after = *vcpu_->GetRegs();
  return outcome;
}

Outcome MicroGuest::Loop() {
  Outcome outcome;
  for (unsigned i = 0; i < kMaxExits; ++i) {
    auto exit = vcpu_->Run();
    REQUIRE(exit.has_value());
    if (std::holds_alternative<Halt>(*exit)) {
      outcome.kind = Outcome::Kind::kHalted;
      return outcome;
    }
    if (const auto* out = std::get_if<IoOut>(&*exit); out != nullptr && out->port < kVectors) {
      const kvm_regs now = *vcpu_->GetRegs();
      outcome.kind = Outcome::Kind::kException;
      outcome.vector = out->port;
      GuestAddr stack = now.rsp;
      if (HasErrorCode(outcome.vector)) {
        outcome.error_code = Get<std::uint64_t>(stack);
        stack += 8;
      }
      outcome.fault_rip = Get<std::uint64_t>(stack);
      outcome.cr2 = vcpu_->GetSregs()->cr2;
      return outcome;
    }
    if (const auto* failure = std::get_if<EmulationFailure>(&*exit); failure != nullptr) {
      if (fixups_ != nullptr) {
        const auto handled = fixups_->Handle(*vcpu_, *failure);
        if (!handled) {
          outcome.detail = handled.error().message();
          return outcome;
        }
        if (*handled) continue;
      }
      outcome.kind = Outcome::Kind::kEmulationFailure;
      return outcome;
    }
    outcome.detail = "exit variant " + std::to_string(exit->index());
    if (const auto* error = std::get_if<InternalError>(&*exit); error != nullptr) {
      outcome.detail += " suberror " + std::to_string(error->suberror);
    }
    return outcome;
  }
  outcome.detail = "too many exits";
  return outcome;
}

std::uint64_t MicroGuest::Count(std::string_view mnemonic) const {
  if (fixups_ == nullptr) return 0;
  for (const auto& [name, count] : fixups_->Counts()) {
    if (name == mnemonic) return count;
  }
  return 0;
}

bool MicroGuest::Counted(std::string_view mnemonic, std::uint64_t times) const {
  return Count(mnemonic) == (NeedsEmulationFixups(DetectHostKind()) ? times : 0);
}

}  // namespace embervm::test
