// Control groups, of the second version: one a container, below the directory that
// `cgroup_root` names.
#ifndef EMBERVM_CONTAINERS_CGROUP_H_
#define EMBERVM_CONTAINERS_CGROUP_H_

#include <stdbool.h>

#include "../text.h"
#include "messages.h"

// Where the hierarchy is mounted.
void cgroup_set_root(const char* path);

// Makes the group at `path` with the controllers that there are. A descriptor of its
// directory, or -1 with errno and the reason. `made` says whether it is new.
int cgroup_make(const char* path, bool* made, struct text* reason);
// It must be empty. 0 or an errno.
int cgroup_remove(const char* path);

// Sets what the limits name. 0 or an errno with the reason.
int cgroup_limit(int group, const OciResources* resources, struct text* reason);
// Loads a program that decides by the rules who may open and make devices: a
// descriptor, or -1 without rules or with `error` and the reason.
int cgroup_load_devices(const OciResources* resources, int* error, struct text* reason);
// Puts it in force, in the place of the one before. 0 or an errno.
int cgroup_attach_devices(int group, int program);

bool cgroup_freeze(int group, bool frozen);
bool cgroup_is_frozen(int group);
bool cgroup_is_empty(int group);
// Ends every process in it.
bool cgroup_kill(int group);

#endif  // EMBERVM_CONTAINERS_CGROUP_H_
