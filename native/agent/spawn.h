// Starts a process in the workload's root. The child shares the agent's memory
// until its execve (vfork style): no page table is copied, which on a host that
// emulates the guest kernel would be most of the cost.
#ifndef EMBERVM_AGENT_SPAWN_H_
#define EMBERVM_AGENT_SPAWN_H_

#include <stdbool.h>
#include <sys/types.h>

#include "users.h"

// What was being done when it failed.
enum spawn_stage {
  SPAWN_CLONE,
  SPAWN_SESSION,
  SPAWN_STDIO,
  SPAWN_TERMINAL,
  SPAWN_ROOT,
  SPAWN_GROUPS,
  SPAWN_GID,
  SPAWN_UID,
  SPAWN_CWD,
  SPAWN_EXEC,
};

struct spawn_request {
  // The directory that becomes "/".
  const char* root;
  // Absolute, in the new root. Optional: "/" when it cannot be entered.
  const char* cwd;
  bool cwd_optional;
  // Looked up along `path` when argv[0] has no slash.
  char* const* argv;
  char* const* envp;
  const char* path;
  const struct user* user;
  // Become descriptors 0, 1 and 2; all three are above 2 themselves.
  int stdio[3];
  // They are a terminal, which becomes the one that controls the session.
  bool terminal;
};

struct spawn_result {
  pid_t pid;
  // When pid is -1.
  enum spawn_stage stage;
  int error;
  // The program is there, but what its first line or its header names is not.
  bool no_interpreter;
};

// The new process leads a session and a process group of its own.
struct spawn_result spawn_process(const struct spawn_request* request);

#endif  // EMBERVM_AGENT_SPAWN_H_
