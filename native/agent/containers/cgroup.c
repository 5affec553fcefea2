#include "cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "files.h"

enum { kPathSize = 4096 };

static const char* root = "/sys/fs/cgroup";

void cgroup_set_root(const char* path) { root = path; }

static bool full_path(char* to, const char* path) {
  const size_t base = strlen(root);
  const bool slash = path[0] == '/';
  if (base + 1 + strlen(path) >= kPathSize) {
    return false;
  }
  memcpy(to, root, base);
  to[base] = '/';
  memcpy(to + base + 1, path + (slash ? 1 : 0), strlen(path) - (slash ? 1 : 0) + 1);
  return true;
}

// One at a time: where one is missing the others still count. An error shows when
// a limit is set.
static void enable_controllers(const char* directory) {
  static const char* const controllers[] = {"+cpu", "+memory", "+pids", "+cpuset", "+io"};
  const int fd = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) {
    return;
  }
  struct text ignored;
  if (file_write(fd, "cgroup.subtree_control", "+cpu +memory +pids +cpuset +io", &ignored) != 0) {
    for (size_t i = 0; i < sizeof(controllers) / sizeof(controllers[0]); i++) {
      file_write(fd, "cgroup.subtree_control", controllers[i], &ignored);
    }
  }
  close(fd);
}

// The groups above the last, with their controllers handed down.
static int make_parents(char* path) {
  for (size_t i = strlen(root); path[i] != '\0'; i++) {
    if (path[i] != '/' || path[i + 1] == '\0') {
      continue;
    }
    path[i] = '\0';
    const bool is_root = i == strlen(root);
    const bool made = !is_root && mkdir(path, 0755) == 0;
    const int error = made || is_root || errno == EEXIST ? 0 : errno;
    static bool root_is_ready;
    if (made || (is_root && !root_is_ready)) {
      enable_controllers(path);
      root_is_ready |= is_root;
    }
    path[i] = '/';
    if (error != 0) {
      return error;
    }
  }
  return 0;
}

int cgroup_make(const char* path, bool* made, struct text* reason) {
  char whole[kPathSize];
  *made = false;
  if (!full_path(whole, path)) {
    errno = ENAMETOOLONG;
    return -1;
  }
  int error = make_parents(whole);
  if (error == 0) {
    *made = mkdir(whole, 0755) == 0;
    error = *made || errno == EEXIST ? 0 : errno;
  }
  const int fd = error == 0 ? open(whole, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
  if (fd < 0) {
    error = error == 0 ? errno : error;
    text_failure(reason, "make the control group", path, error);
    errno = error;
  }
  return fd;
}

int cgroup_remove(const char* path) {
  char whole[kPathSize];
  return full_path(whole, path) && rmdir(whole) == 0 ? 0 : errno;
}

// --- Limits

static void add_amount(struct text* to, int64_t amount) {
  if (amount < 0) {
    text_add(to, "max");
  } else {
    text_add_number(to, (uint64_t)amount);
  }
}

// 0 is "not said".
static int set_amount(int group, const char* file, int64_t amount, struct text* reason) {
  if (amount == 0) {
    return 0;
  }
  struct text value;
  text_clear(&value);
  add_amount(&value, amount);
  return file_write(group, file, value.data, reason);
}

static int limit_memory(int group, const Grpc__LinuxMemory* memory, struct text* reason) {
  int error = set_amount(group, "memory.max", memory->limit, reason);
  if (error == 0) {
    error = set_amount(group, "memory.low", memory->reservation, reason);
  }
  if (error == 0 && memory->swap != 0) {
    struct text value;
    text_clear(&value);
    // Here swap is counted alone.
    add_amount(&value, memory->swap < 0 ? -1 : memory->swap - memory->limit);
    error = file_write(group, "memory.swap.max", value.data, reason);
  }
  return error;
}

static int limit_cpu(int group, const Grpc__LinuxCPU* cpu, struct text* reason) {
  // The range of shares, 2 to 262144, laid on that of weights, 1 to 10000.
  enum { kWeights = 9999, kShares = 262142, kDefaultPeriod = 100000 };
  int error = 0;
  if (cpu->shares != 0) {
    error = set_amount(group, "cpu.weight", (int64_t)(1 + (cpu->shares - 2) * kWeights / kShares),
                       reason);
  }
  if (error == 0 && (cpu->quota != 0 || cpu->period != 0)) {
    struct text value;
    text_clear(&value);
    add_amount(&value, cpu->quota == 0 ? -1 : cpu->quota);
    text_add(&value, " ");
    text_add_number(&value, cpu->period == 0 ? kDefaultPeriod : cpu->period);
    error = file_write(group, "cpu.max", value.data, reason);
  }
  if (error == 0 && cpu->cpus[0] != '\0') {
    error = file_write(group, "cpuset.cpus", cpu->cpus, reason);
  }
  if (error == 0 && cpu->mems[0] != '\0') {
    error = file_write(group, "cpuset.mems", cpu->mems, reason);
  }
  return error;
}

static int throttle(int group, Grpc__LinuxThrottleDevice** devices, size_t count, const char* key,
                    struct text* reason) {
  for (size_t i = 0; i < count; i++) {
    struct text value;
    text_clear(&value);
    text_add_number(&value, (uint64_t)devices[i]->major);
    text_add(&value, ":");
    text_add_number(&value, (uint64_t)devices[i]->minor);
    text_add(&value, key);
    text_add_number(&value, devices[i]->rate);
    const int error = file_write(group, "io.max", value.data, reason);
    if (error != 0) {
      return error;
    }
  }
  return 0;
}

static int limit_block(int group, const Grpc__LinuxBlockIO* block, struct text* reason) {
  int error = throttle(group, block->throttlereadbpsdevice, block->n_throttlereadbpsdevice,
                       " rbps=", reason);
  if (error == 0) {
    error = throttle(group, block->throttlewritebpsdevice, block->n_throttlewritebpsdevice,
                     " wbps=", reason);
  }
  if (error == 0) {
    error = throttle(group, block->throttlereadiopsdevice, block->n_throttlereadiopsdevice,
                     " riops=", reason);
  }
  if (error == 0) {
    error = throttle(group, block->throttlewriteiopsdevice, block->n_throttlewriteiopsdevice,
                     " wiops=", reason);
  }
  return error;
}

int cgroup_limit(int group, const OciResources* resources, struct text* reason) {
  if (resources == NULL) {
    return 0;
  }
  int error = resources->memory == NULL ? 0 : limit_memory(group, resources->memory, reason);
  if (error == 0 && resources->cpu != NULL) {
    error = limit_cpu(group, resources->cpu, reason);
  }
  if (error == 0 && resources->pids != NULL) {
    error = set_amount(group, "pids.max", resources->pids->limit, reason);
  }
  if (error == 0 && resources->blockio != NULL) {
    error = limit_block(group, resources->blockio, reason);
  }
  return error;
}

// --- Processes

bool cgroup_freeze(int group, bool frozen) {
  struct text ignored;
  return file_write(group, "cgroup.freeze", frozen ? "1" : "0", &ignored) == 0;
}

static bool event_is(int group, const char* key, uint64_t wanted) {
  char content[128];
  uint64_t value;
  return file_read(group, "cgroup.events", content, sizeof(content)) > 0 &&
         file_field(content, key, &value) && value == wanted;
}

bool cgroup_is_frozen(int group) { return event_is(group, "frozen", 1); }

bool cgroup_is_empty(int group) { return event_is(group, "populated", 0); }

bool cgroup_kill(int group) {
  struct text ignored;
  return file_write(group, "cgroup.kill", "1", &ignored) == 0;
}
