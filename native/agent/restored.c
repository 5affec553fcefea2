#include "restored.h"

#include <errno.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "identity.h"
#include "random.h"
#include "root.h"
#include "ttrpc.h"

enum { kMinSeed = 32, kMaxSeed = 512, kMaxHostname = 64 };

static const uint64_t kNsPerSecond = 1000000000u;

int restored_apply(const RestoredRequest* request, struct text* reason) {
  const size_t hostname_length = strlen(request->hostname);
  if (request->random_seed.len < kMinSeed || request->random_seed.len > kMaxSeed) {
    text_join(reason, "random_seed must have 32 to 512 bytes", NULL);
    return TTRPC_INVALID_ARGUMENT;
  }
  if (hostname_length > kMaxHostname) {
    text_join(reason, "the hostname is over 64 bytes", NULL);
    return TTRPC_INVALID_ARGUMENT;
  }
  // First: whatever starts now draws from it.
  if (random_reseed(request->random_seed.data, request->random_seed.len, reason) != 0) {
    return TTRPC_INTERNAL;
  }
  const struct timespec now = {.tv_sec = (time_t)(request->realtime_ns / kNsPerSecond),
                               .tv_nsec = (long)(request->realtime_ns % kNsPerSecond)};
  if (request->realtime_ns != 0 && clock_settime(CLOCK_REALTIME, &now) < 0) {
    text_failure(reason, "set the clock", NULL, errno);
    return TTRPC_INTERNAL;
  }
  if (hostname_length > 0 && sethostname(request->hostname, hostname_length) < 0) {
    text_failure(reason, "sethostname", NULL, errno);
    return TTRPC_INTERNAL;
  }
  identity_renew(root_fd());
  return 0;
}
