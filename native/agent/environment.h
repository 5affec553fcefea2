// The environment of a process: what the host gave, and what it left out.
#ifndef EMBERVM_AGENT_ENVIRONMENT_H_
#define EMBERVM_AGENT_ENVIRONMENT_H_

#include <stdbool.h>
#include <stddef.h>

#include "users.h"

// The value of `name` in `count` entries "NAME=value"; the last one wins. NULL when absent.
const char* environment_get(char* const* entries, size_t count, const char* name);

// Every entry has a name and an "=".
bool environment_is_valid(char* const* entries, size_t count);

// Entries and a NULL behind them, in the arena: those given, then PATH, HOME, USER
// and LOGNAME where absent. NULL without memory.
char** environment_build(char* const* entries, size_t count, const struct user* user);

#endif  // EMBERVM_AGENT_ENVIRONMENT_H_
