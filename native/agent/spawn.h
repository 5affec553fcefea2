// Starts a process in the workload's root. The child shares the agent's memory
// until its execve (vfork style): no page table is copied, which on a host that
// emulates the guest kernel would be most of the cost.
#ifndef EMBERVM_AGENT_SPAWN_H_
#define EMBERVM_AGENT_SPAWN_H_

#include <stdbool.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "users.h"

// What was being done when it failed.
enum spawn_stage {
  SPAWN_CLONE,
  SPAWN_NAMESPACE,
  SPAWN_SESSION,
  SPAWN_STDIO,
  SPAWN_TERMINAL,
  SPAWN_LIMIT,
  SPAWN_ROOT,
  SPAWN_RESTRICT,
  SPAWN_GROUPS,
  SPAWN_GID,
  SPAWN_UID,
  SPAWN_CWD,
  SPAWN_EXEC,
};

struct spawn_limit {
  int resource;
  struct rlimit value;
};

enum spawn_namespaces {
  SPAWN_SHARED,
  // PID 1 of new ones.
  SPAWN_AS_INIT,
  // Those of the init.
  SPAWN_WITH_INIT,
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
  const struct spawn_limit* limits;
  size_t limit_count;
  // Without the capabilities that reach beyond the sandbox's own files and processes.
  bool restricted;
  enum spawn_namespaces namespaces;
  // Pidfds of the init and of this process.
  int init;
  int own;
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
