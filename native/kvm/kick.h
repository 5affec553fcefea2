// The signal that takes a vCPU thread out of KVM_RUN. Its handler does nothing:
// that the system call returns with EINTR is the point.
#ifndef EMBERVM_KVM_KICK_H_
#define EMBERVM_KVM_KICK_H_

#include <pthread.h>

#include "base/result.h"

namespace embervm {

// The process's kick signal: the first real-time signal that nobody else
// handles, installed on first use without SA_RESTART, and kept. Any thread.
// ERR_RESOURCE_LIMIT when every real-time signal is taken.
Result<int> KickSignal();

// Interrupts `thread` (set immediate_exit first: a signal that lands before
// KVM_RUN would be lost). The thread must not have been joined.
void Kick(pthread_t thread, int signal);

// Lets the calling thread be kicked, whatever mask it inherited.
Result<> UnblockKickSignal(int signal);

}  // namespace embervm

#endif  // EMBERVM_KVM_KICK_H_
