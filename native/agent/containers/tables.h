// Names of the OCI configuration as the kernel's numbers.
#ifndef EMBERVM_CONTAINERS_TABLES_H_
#define EMBERVM_CONTAINERS_TABLES_H_

#include <stdbool.h>
#include <stdint.h>

// "CAP_CHOWN" to the bit; false for a name that is not known.
bool capability_bit(const char* name, uint64_t* bit);

// "RLIMIT_NOFILE" to the number; -1 for a name that is not known.
int limit_number(const char* name);

// "pid" to CLONE_NEWPID; 0 for a name that is not known.
int namespace_flag(const char* name);

// An option of a mount: bits of the mount's attributes (mount_setattr(2)), its
// propagation, or a bind.
struct mount_option {
  const char* name;
  uint64_t set;
  uint64_t clear;
  unsigned long propagation;
  // Of all mounts below, too.
  bool recursive;
  bool bind;
};

// NULL for what is the file system's own.
const struct mount_option* mount_option_find(const char* name);

// MS_PRIVATE, MS_SLAVE, MS_SHARED, MS_UNBINDABLE with MS_REC, or 0.
unsigned long propagation_flag(const char* name);

#endif  // EMBERVM_CONTAINERS_TABLES_H_
