#include "restrict.h"

#include <errno.h>
#include <linux/capability.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BIT(capability) (UINT64_C(1) << (capability))

// What a root program needs within its own files, processes and ports. Not in it:
// all that reaches the kernel, the devices or the mounts, and CAP_SYS_CHROOT, which
// would lead out of the root.
static const uint64_t kKept = BIT(CAP_CHOWN) | BIT(CAP_DAC_OVERRIDE) | BIT(CAP_FOWNER) |
                              BIT(CAP_FSETID) | BIT(CAP_KILL) | BIT(CAP_SETGID) | BIT(CAP_SETUID) |
                              BIT(CAP_SETPCAP) | BIT(CAP_NET_BIND_SERVICE) | BIT(CAP_NET_RAW) |
                              BIT(CAP_AUDIT_WRITE) | BIT(CAP_SETFCAP);

bool restrict_privileges(void) {
  // Root gets what is left of the bounding set by its execve (capabilities(7)).
  for (unsigned long capability = 0; capability < 64; capability++) {
    if ((kKept & BIT(capability)) != 0) {
      continue;
    }
    if (syscall(SYS_prctl, PR_CAPBSET_DROP, capability, 0L, 0L, 0L) < 0) {
      if (errno != EINVAL) {
        return false;
      }
      // The kernel knows no further capability.
      break;
    }
  }
  return syscall(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1L, 0L, 0L, 0L) == 0;
}
