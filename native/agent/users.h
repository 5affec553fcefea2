// Who a process runs as: "name", "uid", "name:group", "uid:gid" looked up in the
// workload root's /etc/passwd and /etc/group. The files belong to an untrusted
// image: they are opened beneath the root, must be regular, and are read in
// bounded steps; lines that make no sense are passed over.
#ifndef EMBERVM_AGENT_USERS_H_
#define EMBERVM_AGENT_USERS_H_

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "limits.h"
#include "text.h"

struct user {
  uid_t uid;
  gid_t gid;
  size_t group_count;
  // The supplementary groups: of the user's name, and none when the request
  // names a group, as container engines do it.
  gid_t groups[AGENT_MAX_GROUPS];
  // Empty when the user has no entry.
  char name[AGENT_NAME_SIZE];
  // "/" when the user has no entry.
  char home[AGENT_PATH_SIZE];
};

// Empty means uid 0. False with the reason when there is no such user or group.
// `needs_home` false lets a numeric "uid:gid" be taken without reading a file.
bool users_resolve(int root_fd, const char* wanted, bool needs_home, struct user* user,
                   struct text* reason);

#endif  // EMBERVM_AGENT_USERS_H_
