// Fixups: emulates guest kernel instructions that KVM-PVM leaves to the VMM.
// Everything the guest gives (code bytes, registers, page tables, memory) is
// hostile: a bad operand faults in the guest or is refused, never here.
#ifndef EMBERVM_KVM_FIXUPS_FIXUPS_H_
#define EMBERVM_KVM_FIXUPS_FIXUPS_H_

#include <cstdint>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "kvm/vcpu.h"
#include "kvm/vm.h"
#include "memory/guest_memory.h"

namespace embervm {

class Fixups {
 public:
  // Asks KVM to report every instruction it cannot emulate. `memory` must
  // outlive this object.
  static Result<std::unique_ptr<Fixups>> Create(KvmVm& vm, const GuestMemory& memory);

  Fixups(const Fixups&) = delete;
  Fixups& operator=(const Fixups&) = delete;
  ~Fixups();

  // On the vCPU's thread, after Run() returned `failure`. True: the instruction
  // was executed, or its fault was queued for the guest; enter it again. False:
  // not an instruction we know; the machine cannot go on.
  Result<bool> Handle(KvmVcpu& vcpu, const EmulationFailure& failure);

  // Any thread. How often each mnemonic was emulated; zeroes left out.
  [[nodiscard]] std::vector<std::pair<std::string_view, std::uint64_t>> Counts() const;

 private:
  struct State;
  explicit Fixups(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace embervm

#endif  // EMBERVM_KVM_FIXUPS_FIXUPS_H_
