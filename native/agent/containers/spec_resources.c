// Limits: what the second version of control groups does not have is refused.
#include <string.h>

#include "spec.h"
#include "spec_private.h"

enum { kMaxRules = 1024 };

// The least that cpu.max takes, and its period's bounds, in microseconds.
static const int64_t kMinQuota = 1000;
static const uint64_t kMinPeriod = 1000;
static const uint64_t kMaxPeriod = 1000000;
static const uint64_t kMaxShares = 262144;

static int refuse(struct text* reason, enum ttrpc_code code, const char* field, const char* why) {
  struct text name;
  text_join(&name, "linux.resources.", field, NULL);
  return spec_refuse(reason, code, name.data, why, "");
}

static int check_memory(const Grpc__LinuxMemory* memory, struct text* reason) {
  if (memory->limit < -1 || memory->reservation < -1 || memory->swap < -1) {
    return refuse(reason, TTRPC_INVALID_ARGUMENT, "memory", "must be -1 or more");
  }
  if (memory->swap > 0 && (memory->limit <= 0 || memory->swap < memory->limit)) {
    return refuse(reason, TTRPC_INVALID_ARGUMENT, "memory.swap",
                  "is memory and swap together: it needs a limit of at most as much");
  }
  if (memory->kernel != 0 || memory->kerneltcp != 0) {
    return refuse(reason, TTRPC_UNIMPLEMENTED, "memory.kernel and kernelTCP",
                  "cannot be applied: control groups v2 have no such limit");
  }
  if (memory->swappiness != 0 || memory->disableoomkiller) {
    return refuse(reason, TTRPC_UNIMPLEMENTED, "memory.swappiness and disableOOMKiller",
                  "cannot be applied: control groups v2 have no such setting");
  }
  return 0;
}

static int check_cpu(const Grpc__LinuxCPU* cpu, struct text* reason) {
  if (cpu->realtimeruntime != 0 || cpu->realtimeperiod != 0) {
    return refuse(reason, TTRPC_UNIMPLEMENTED, "cpu.realtimeRuntime and realtimePeriod",
                  "cannot be applied: control groups v2 have no such limit");
  }
  if (cpu->quota < -1 || (cpu->quota > 0 && cpu->quota < kMinQuota)) {
    return refuse(reason, TTRPC_INVALID_ARGUMENT, "cpu.quota", "must be -1, or 1000 us or more");
  }
  if (cpu->period != 0 && (cpu->period < kMinPeriod || cpu->period > kMaxPeriod)) {
    return refuse(reason, TTRPC_INVALID_ARGUMENT, "cpu.period", "must be 1000 to 1000000 us");
  }
  if (cpu->shares == 1 || cpu->shares > kMaxShares) {
    return refuse(reason, TTRPC_INVALID_ARGUMENT, "cpu.shares", "must be 2 to 262144");
  }
  return 0;
}

static int check_block(const Grpc__LinuxBlockIO* block, struct text* reason) {
  enum { kMinWeight = 10, kMaxWeight = 1000 };
  if (block->leafweight != 0) {
    return refuse(reason, TTRPC_UNIMPLEMENTED, "blockIO.leafWeight",
                  "cannot be applied: control groups v2 have no such setting");
  }
  if (block->weight != 0 || block->n_weightdevice > 0) {
    return refuse(reason, TTRPC_UNIMPLEMENTED, "blockIO.weight and weightDevice",
                  "cannot be applied: the guest's kernel has no scheduler by weight");
  }
  return 0;
}

static int check_rule(const OciDeviceRule* rule, struct text* reason) {
  const char* type = rule->type;
  if (type[0] != '\0' && (type[1] != '\0' || strchr("abc", type[0]) == NULL)) {
    return refuse(reason, TTRPC_INVALID_ARGUMENT, "devices.type", "must be a, b or c");
  }
  if (rule->major < -1 || rule->minor < -1 || rule->major > UINT32_MAX ||
      rule->minor > UINT32_MAX) {
    return refuse(reason, TTRPC_INVALID_ARGUMENT, "devices", "has a number out of range");
  }
  for (const char* at = rule->access; *at != '\0'; at++) {
    if (strchr("rwm", *at) == NULL) {
      return refuse(reason, TTRPC_INVALID_ARGUMENT, "devices.access", "must be of r, w and m");
    }
  }
  return 0;
}

int spec_check_resources(const OciResources* resources, struct text* reason) {
  if (resources == NULL) {
    return 0;
  }
  if (resources->n_hugepagelimits > 0) {
    return refuse(reason, TTRPC_UNIMPLEMENTED, "hugepageLimits",
                  "cannot be applied: the guest's kernel has no huge page pools");
  }
  if (resources->network != NULL) {
    return refuse(reason, TTRPC_UNIMPLEMENTED, "network",
                  "cannot be applied: control groups v2 have no such setting");
  }
  if (resources->n_devices > kMaxRules) {
    return refuse(reason, TTRPC_INVALID_ARGUMENT, "devices", "has over 1024 entries");
  }
  for (size_t i = 0; i < resources->n_devices; i++) {
    const int code = check_rule(resources->devices[i], reason);
    if (code != 0) {
      return code;
    }
  }
  if (resources->pids != NULL && resources->pids->limit < -1) {
    return refuse(reason, TTRPC_INVALID_ARGUMENT, "pids.limit", "must be -1 or more");
  }
  int code = resources->memory == NULL ? 0 : check_memory(resources->memory, reason);
  if (code == 0 && resources->cpu != NULL) {
    code = check_cpu(resources->cpu, reason);
  }
  if (code == 0 && resources->blockio != NULL) {
    code = check_block(resources->blockio, reason);
  }
  return code;
}
