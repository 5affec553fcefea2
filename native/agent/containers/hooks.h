// Programs of the OCI configuration that run beside a container's life. Blocking:
// for processes that have nothing else to do.
#ifndef EMBERVM_CONTAINERS_HOOKS_H_
#define EMBERVM_CONTAINERS_HOOKS_H_

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "../text.h"
#include "messages.h"

struct hook_state {
  const char* id;
  const char* status;
  pid_t pid;
  const char* root;
};

// Runs them in order, each with the state on its standard input. False at the first
// that fails, with the reason.
bool hooks_run(OciHook** hooks, size_t count, const struct hook_state* state, struct text* reason);

#endif  // EMBERVM_CONTAINERS_HOOKS_H_
