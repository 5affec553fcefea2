// Words for the exits after which a machine cannot go on.
#ifndef EMBERVM_MACHINE_EXIT_REPORT_H_
#define EMBERVM_MACHINE_EXIT_REPORT_H_

#include <cstdint>

#include "kvm/vcpu_exit.h"
#include "machine/observer.h"

namespace embervm::machine {

// The facts of `exit` on vCPU `index`, as the end of the machine.
ExitInfo DescribeFatalExit(const VcpuExit& exit, std::uint32_t index);

}  // namespace embervm::machine

#endif  // EMBERVM_MACHINE_EXIT_REPORT_H_
