#include "kvm/fixups/fixups.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <optional>

#include "kvm/fixups/address_space.h"
#include "kvm/fixups/context.h"
#include "kvm/fixups/instruction.h"
#include "kvm/fixups/table.h"

namespace embervm {

namespace {

using fixups::Fault;

// Raises an exception before the instruction at rip.
Result<> Inject(KvmVcpu& vcpu, kvm_sregs& sregs, const Fault& fault) {
  if (fault.address) {
    sregs.cr2 = *fault.address;
    EMBERVM_TRY(vcpu.SetSregs(sregs));
  }
  EMBERVM_TRY_ASSIGN(kvm_vcpu_events events, vcpu.GetEvents());
  events.exception.injected = 1;
  events.exception.pending = 0;
  events.exception.nr = fault.vector;
  events.exception.has_error_code = fault.error_code ? 1 : 0;
  events.exception.error_code = fault.error_code.value_or(0);
  return vcpu.SetEvents(events);
}

// What KVM fetched, and the rest of the 15 bytes where it stopped short.
std::span<const std::byte> CodeBytes(const EmulationFailure& failure, std::uint64_t rip,
                                     const fixups::AddressSpace& memory,
                                     std::array<std::byte, EmulationFailure::kMaxBytes>& bytes) {
  bytes = failure.bytes;
  const std::size_t have = std::min(failure.size, bytes.size());
  const std::size_t more = memory.Fetch(rip + have, std::span(bytes).subspan(have));
  return std::span(bytes).first(have + more);
}

}  // namespace

struct Fixups::State {
  explicit State(const GuestMemory& guest_memory)
      : memory(guest_memory), counts(fixups::Table().size()) {}

  const GuestMemory& memory;
  // One per table entry. Incremented by vCPU threads, read by anyone: plain
  // counters that order nothing.
  std::vector<std::atomic<std::uint64_t>> counts;
};

Result<std::unique_ptr<Fixups>> Fixups::Create(KvmVm& vm, const GuestMemory& memory) {
  EMBERVM_TRY(vm.EnableCapability(KVM_CAP_EXIT_ON_EMULATION_FAILURE, 1));
  return std::unique_ptr<Fixups>(new Fixups(std::make_unique<State>(memory)));
}

Fixups::Fixups(std::unique_ptr<State> state) : state_(std::move(state)) {}

Fixups::~Fixups() = default;

Result<bool> Fixups::Handle(KvmVcpu& vcpu, const EmulationFailure& failure) {
  EMBERVM_TRY_ASSIGN(const kvm_regs regs, vcpu.GetRegs());
  EMBERVM_TRY_ASSIGN(kvm_sregs sregs, vcpu.GetSregs());
  const Fault invalid_opcode{fixups::kInvalidOpcode, std::nullopt, std::nullopt};
  // A guest program's instruction is its own problem: what KVM does without
  // KVM_CAP_EXIT_ON_EMULATION_FAILURE. It must not stop the machine.
  if (sregs.ss.dpl != 0) {
    EMBERVM_TRY(Inject(vcpu, sregs, invalid_opcode));
    return true;
  }
  if (sregs.cs.l == 0) return false;

  const fixups::AddressSpace memory(state_->memory, sregs, regs.rflags);
  std::array<std::byte, EmulationFailure::kMaxBytes> bytes{};
  const auto instruction = fixups::Decode(CodeBytes(failure, regs.rip, memory, bytes));
  if (!instruction) return false;
  const auto place = fixups::FindEntry(*instruction);
  if (!place) return false;
  const fixups::Entry& entry = fixups::Table()[*place];
  state_->counts[*place].fetch_add(1, std::memory_order_relaxed);
  if (instruction->lock && !entry.lockable) {
    EMBERVM_TRY(Inject(vcpu, sregs, invalid_opcode));
    return true;
  }

  fixups::Context context{.vcpu = vcpu,
                          .instruction = *instruction,
                          .regs = regs,
                          .sregs = sregs,
                          .memory = memory,
                          .trap = std::nullopt};
  fixups::Step<> step = entry.handler(context);
  if (!step) {
    if (step.error().error != nullptr) {
      return std::unexpected(std::move(*step.error().error)
                                 .With("instruction", std::string(entry.mnemonic))
                                 .With("rip", static_cast<std::int64_t>(regs.rip)));
    }
    EMBERVM_TRY(Inject(vcpu, sregs, step.error().fault));
    return true;
  }
  context.regs.rip += instruction->length;
  // Before the trap: KVM_SET_REGS drops a queued exception.
  EMBERVM_TRY(vcpu.SetRegs(context.regs));
  if (context.trap) {
    EMBERVM_TRY(Inject(vcpu, sregs, Fault{*context.trap, std::nullopt, std::nullopt}));
  }
  return true;
}

std::vector<std::pair<std::string_view, std::uint64_t>> Fixups::Counts() const {
  std::vector<std::pair<std::string_view, std::uint64_t>> counts;
  for (std::size_t i = 0; i < state_->counts.size(); ++i) {
    const std::uint64_t count = state_->counts[i].load(std::memory_order_relaxed);
    if (count == 0) continue;
    const std::string_view mnemonic = fixups::Table()[i].mnemonic;
    // Encodings of one mnemonic are neighbours in the table.
    if (!counts.empty() && counts.back().first == mnemonic) {
      counts.back().second += count;
    } else {
      counts.emplace_back(mnemonic, count);
    }
  }
  return counts;
}

}  // namespace embervm
