// Process.Exec: one process with its stdio as one stream.
//
// Output is read only while the connection has room for it, and input is taken
// only while the process takes it, so each direction holds at most one block.
// The exit is reported when the process itself ends: first what its pipes held
// at that moment, then, if somebody else keeps them open, whatever comes within a
// short grace.
#ifndef EMBERVM_AGENT_EXEC_H_
#define EMBERVM_AGENT_EXEC_H_

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "server.h"

// The handler of the method.
void exec_open(const struct call* call);

// False when no such process runs (any more).
bool exec_signal(uint64_t exec_id, int signal, bool group);

// Sets the size of its terminal. False when no such process runs (any more), or has
// no terminal.
bool exec_resize(uint64_t exec_id, uint32_t rows, uint32_t cols);

// A child was reaped; it need not be one of Exec's.
void exec_reaped(pid_t pid, int status);
// Tells the exit of every process that has ended, without waiting for more of its output: nobody is
// left to write any.
void exec_settle_all(void);

#endif  // EMBERVM_AGENT_EXEC_H_
