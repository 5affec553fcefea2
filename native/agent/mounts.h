// mount(2) and mkdir(2) with the reason of a failure in words.
#ifndef EMBERVM_AGENT_MOUNTS_H_
#define EMBERVM_AGENT_MOUNTS_H_

#include <stdbool.h>

#include "text.h"

struct mount_request {
  const char* source;
  const char* target;
  const char* fstype;
  const char* data;
  unsigned long flags;
};

// Each returns 0 or an errno, with the reason.

// The target directory is made when it is missing.
int mount_at(const struct mount_request* request, struct text* reason);

// An existing directory is fine, a link to one too.
int make_directory(const char* path, unsigned mode, struct text* reason);

// Grows the mounted ext4 at `target` to the size of its block device.
int grow_to_device(const char* device, const char* target, struct text* reason);
// The same of an open directory of it; `shown` is for the reason.
int grow_opened(const char* device, int fd, const char* shown, struct text* reason);

#endif  // EMBERVM_AGENT_MOUNTS_H_
