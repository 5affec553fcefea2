// A container's configuration, checked: every field of the OCI specification is
// either turned into what the kernel takes or refused by its name. Nothing here
// touches the machine. All memory is the arena's.
#ifndef EMBERVM_CONTAINERS_SPEC_H_
#define EMBERVM_CONTAINERS_SPEC_H_

#include <linux/filter.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "../text.h"
#include "messages.h"

struct capabilities {
  uint64_t bounding;
  uint64_t effective;
  uint64_t inheritable;
  uint64_t permitted;
  uint64_t ambient;
};

enum { kMaxLimits = 16 };

struct limit {
  int resource;
  struct rlimit value;
};

struct process_spec {
  // Ended by NULL. The first is looked up along `path` when it has no slash.
  char** arguments;
  char** environment;
  const char* path;
  const char* directory;
  uid_t uid;
  gid_t gid;
  const gid_t* groups;
  size_t group_count;
  // To be looked up in the container's root; NULL: uid and gid are it.
  const char* user;
  struct capabilities capabilities;
  struct limit limits[kMaxLimits];
  size_t limit_count;
  int oom_score;
  bool no_new_privileges;
  bool terminal;
  uint16_t rows;
  uint16_t columns;
};

struct mount_spec {
  const char* target;
  const char* source;
  const char* type;
  // Comma separated, of the file system.
  const char* data;
  uint64_t set;
  uint64_t clear;
  // The attributes are those of all mounts below, too.
  bool attributes_recursive;
  bool bind;
  bool bind_recursive;
  unsigned long propagation;
};

struct join {
  int flag;
  const char* path;
};

struct device_spec {
  const char* path;
  mode_t mode;
  dev_t number;
  uid_t uid;
  gid_t gid;
};

struct sysctl {
  // Below /proc/sys, with slashes.
  const char* path;
  const char* value;
};

enum { kMaxJoins = 8 };

struct container_spec {
  struct process_spec process;
  const char* root;
  bool root_readonly;
  const char* hostname;
  // CLONE_NEW* of what is made new.
  int namespaces;
  struct join joins[kMaxJoins];
  size_t join_count;
  struct mount_spec* mounts;
  size_t mount_count;
  struct device_spec* devices;
  size_t device_count;
  struct sysctl* sysctls;
  size_t sysctl_count;
  char** masked;
  size_t masked_count;
  char** readonly;
  size_t readonly_count;
  unsigned long propagation;
  const char* cgroup;
  const OciResources* resources;
  const Grpc__Hooks* hooks;
  // NULL: every call is allowed.
  struct sock_filter* filter;
  size_t filter_length;
  unsigned filter_flags;
};

// Each returns 0, or a ttrpc code with the reason.

int spec_read(const OciSpec* message, struct container_spec* spec, struct text* reason);
int spec_read_process(const OciProcess* message, struct process_spec* spec, struct text* reason);
// Adds who Kata's StringUser names. NULL is fine.
int spec_read_user(const StringUser* message, struct process_spec* spec, struct text* reason);
int spec_check_resources(const OciResources* resources, struct text* reason);
// Letters, digits, "_", "-", "." and "+", beginning with a letter or digit.
bool spec_id_is_valid(const char* id);
// One mount; also of a storage.
int spec_read_mount(const OciMount* message, struct mount_spec* spec, struct text* reason);

// Puts a program in the arena. 0 or a ttrpc code.
int seccomp_compile(const OciSeccomp* message, struct container_spec* spec, struct text* reason);

#endif  // EMBERVM_CONTAINERS_SPEC_H_
