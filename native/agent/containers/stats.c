#include "stats.h"

#include <fcntl.h>
#include <string.h>

#include "../arena.h"
#include "bounds.h"
#include "files.h"

enum { kNsPerUs = 1000, kFileSize = 16 * 1024, kMaxStats = 256 };

// --- CPU

static Grpc__CpuStats* read_cpu(int group) {
  Grpc__CpuStats* stats = arena_allocate(sizeof(*stats));
  Grpc__CpuUsage* usage = arena_allocate(sizeof(*usage));
  Grpc__ThrottlingData* throttling = arena_allocate(sizeof(*throttling));
  if (stats == NULL || usage == NULL || throttling == NULL) {
    return NULL;
  }
  grpc__cpu_stats__init(stats);
  grpc__cpu_usage__init(usage);
  grpc__throttling_data__init(throttling);
  stats->cpu_usage = usage;
  stats->throttling_data = throttling;
  char content[1024];
  if (file_read(group, "cpu.stat", content, sizeof(content)) <= 0) {
    return stats;
  }
  const struct {
    const char* key;
    uint64_t* to;
    uint64_t unit;
  } fields[] = {
      {"usage_usec", &usage->total_usage, kNsPerUs},
      {"user_usec", &usage->usage_in_usermode, kNsPerUs},
      {"system_usec", &usage->usage_in_kernelmode, kNsPerUs},
      {"nr_periods", &throttling->periods, 1},
      {"nr_throttled", &throttling->throttled_periods, 1},
      {"throttled_usec", &throttling->throttled_time, kNsPerUs},
  };
  for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
    if (file_field(content, fields[i].key, fields[i].to)) {
      *fields[i].to *= fields[i].unit;
    }
  }
  return stats;
}

// --- Memory

static Grpc__MemoryData* read_amounts(int group, const char* current, const char* peak,
                                      const char* limit) {
  Grpc__MemoryData* data = arena_allocate(sizeof(*data));
  if (data != NULL) {
    grpc__memory_data__init(data);
    file_number(group, current, &data->usage);
    file_number(group, peak, &data->max_usage);
    file_number(group, limit, &data->limit);
  }
  return data;
}

static Grpc__MemoryStats__StatsEntry* make_entry(char* line) {
  char* space = strchr(line, ' ');
  uint64_t value;
  if (space == NULL || !text_number(space + 1, strlen(space + 1), UINT64_MAX, &value)) {
    return NULL;
  }
  *space = '\0';
  Grpc__MemoryStats__StatsEntry* entry = arena_allocate(sizeof(*entry));
  if (entry != NULL) {
    grpc__memory_stats__stats_entry__init(entry);
    entry->key = line;
    entry->value = value;
  }
  return entry;
}

// memory.stat as it is, by name.
static bool read_details(int group, Grpc__MemoryStats* stats) {
  char* content = arena_allocate(kFileSize);
  stats->stats = arena_allocate(kMaxStats * sizeof(stats->stats[0]));
  if (content == NULL || stats->stats == NULL) {
    return false;
  }
  if (file_read(group, "memory.stat", content, kFileSize) <= 0) {
    return true;
  }
  file_field(content, "file", &stats->cache);
  file_field(content, "kernel", &stats->kernel_usage->usage);
  char* rest = content;
  for (char* line; stats->n_stats < kMaxStats && (line = strsep(&rest, "\n")) != NULL;) {
    Grpc__MemoryStats__StatsEntry* entry = make_entry(line);
    if (entry != NULL) {
      stats->stats[stats->n_stats++] = entry;
    }
  }
  return !arena_exhausted();
}

static Grpc__MemoryStats* read_memory(int group) {
  Grpc__MemoryStats* stats = arena_allocate(sizeof(*stats));
  if (stats == NULL) {
    return NULL;
  }
  grpc__memory_stats__init(stats);
  stats->use_hierarchy = true;
  stats->usage = read_amounts(group, "memory.current", "memory.peak", "memory.max");
  stats->swap_usage =
      read_amounts(group, "memory.swap.current", "memory.swap.peak", "memory.swap.max");
  stats->kernel_usage = arena_allocate(sizeof(*stats->kernel_usage));
  if (stats->usage == NULL || stats->swap_usage == NULL || stats->kernel_usage == NULL) {
    return NULL;
  }
  grpc__memory_data__init(stats->kernel_usage);
  char events[256];
  if (file_read(group, "memory.events", events, sizeof(events)) > 0) {
    file_field(events, "max", &stats->usage->failcnt);
  }
  return read_details(group, stats) ? stats : NULL;
}

static Grpc__PidsStats* read_pids(int group) {
  Grpc__PidsStats* stats = arena_allocate(sizeof(*stats));
  if (stats != NULL) {
    grpc__pids_stats__init(stats);
    file_number(group, "pids.current", &stats->current);
    file_number(group, "pids.max", &stats->limit);
    if (stats->limit == UINT64_MAX) {
      stats->limit = 0;
    }
  }
  return stats;
}

// --- Block devices

static const struct {
  const char* key;
  // Protobuf-c's strings are not const.
  char operation[8];
  bool bytes;
} kOperations[] = {
    {"rbytes=", "Read", true}, {"wbytes=", "Write", true}, {"dbytes=", "Discard", true},
    {"rios=", "Read", false},  {"wios=", "Write", false},  {"dios=", "Discard", false},
};

enum { kOperationCount = sizeof(kOperations) / sizeof(kOperations[0]) };

static bool read_word(const char* word, uint64_t major, uint64_t minor, Grpc__BlkioStats* stats) {
  for (size_t i = 0; i < kOperationCount; i++) {
    const char* key = kOperations[i].key;
    uint64_t value;
    if (strncmp(word, key, strlen(key)) != 0 ||
        !text_number(word + strlen(key), strlen(word + strlen(key)), UINT64_MAX, &value)) {
      continue;
    }
    Grpc__BlkioStatsEntry* entry = arena_allocate(sizeof(*entry));
    char* operation = arena_allocate(sizeof(kOperations[i].operation));
    if (entry == NULL || operation == NULL) {
      return false;
    }
    memcpy(operation, kOperations[i].operation, sizeof(kOperations[i].operation));
    grpc__blkio_stats_entry__init(entry);
    entry->major = major;
    entry->minor = minor;
    entry->op = operation;
    entry->value = value;
    if (kOperations[i].bytes) {
      stats->io_service_bytes_recursive[stats->n_io_service_bytes_recursive++] = entry;
    } else {
      stats->io_serviced_recursive[stats->n_io_serviced_recursive++] = entry;
    }
  }
  return true;
}

// "8:0 rbytes=1 wbytes=2 ..."
static bool read_device(char* line, Grpc__BlkioStats* stats) {
  const char* device = strsep(&line, " ");
  const size_t digits = strcspn(device, ":");
  uint64_t major;
  uint64_t minor;
  if (device[digits] != ':' || !text_number(device, digits, UINT32_MAX, &major) ||
      !text_number(device + digits + 1, strlen(device + digits + 1), UINT32_MAX, &minor)) {
    return true;
  }
  bool done = true;
  // A key that comes twice would not fit.
  size_t words = 0;
  for (const char* word; done && words < kOperationCount && (word = strsep(&line, " ")) != NULL;
       words++) {
    done = read_word(word, major, minor, stats);
  }
  return done;
}

static Grpc__BlkioStats* read_block(int group) {
  const size_t room = (size_t)MAX_STATS_DEVICES * kOperationCount * sizeof(Grpc__BlkioStatsEntry*);
  Grpc__BlkioStats* stats = arena_allocate(sizeof(*stats));
  char* content = arena_allocate(kFileSize);
  if (stats == NULL || content == NULL) {
    return NULL;
  }
  grpc__blkio_stats__init(stats);
  stats->io_service_bytes_recursive = arena_allocate(room);
  stats->io_serviced_recursive = arena_allocate(room);
  if (stats->io_service_bytes_recursive == NULL || stats->io_serviced_recursive == NULL) {
    return NULL;
  }
  if (file_read(group, "io.stat", content, kFileSize) <= 0) {
    return stats;
  }
  char* rest = content;
  for (size_t i = 0; i < MAX_STATS_DEVICES; i++) {
    char* line = strsep(&rest, "\n");
    if (line == NULL) {
      break;
    }
    if (!read_device(line, stats)) {
      return NULL;
    }
  }
  return stats;
}

Grpc__CgroupStats* stats_read(int group) {
  Grpc__CgroupStats* stats = arena_allocate(sizeof(*stats));
  if (stats == NULL) {
    return NULL;
  }
  grpc__cgroup_stats__init(stats);
  stats->cpu_stats = read_cpu(group);
  stats->memory_stats = read_memory(group);
  stats->pids_stats = read_pids(group);
  stats->blkio_stats = read_block(group);
  const bool whole = stats->cpu_stats != NULL && stats->memory_stats != NULL &&
                     stats->pids_stats != NULL && stats->blkio_stats != NULL;
  return whole ? stats : NULL;
}

// --- Interfaces

enum { kColumns = 16 };

static size_t read_columns(char* line, uint64_t* columns) {
  size_t count = 0;
  for (const char* word; count < kColumns && (word = strsep(&line, " ")) != NULL;) {
    if (*word != '\0' && text_number(word, strlen(word), UINT64_MAX, &columns[count])) {
      count++;
    }
  }
  return count;
}

// "  eth0: 1 2 3 ...": eight columns of what was received, then eight of what was sent.
static Grpc__NetworkStats* read_interface(char* line) {
  char* colon = strrchr(line, ':');
  uint64_t columns[kColumns];
  if (colon == NULL || read_columns(colon + 1, columns) != kColumns) {
    return NULL;
  }
  *colon = '\0';
  Grpc__NetworkStats* stats = arena_allocate(sizeof(*stats));
  if (stats == NULL) {
    return NULL;
  }
  grpc__network_stats__init(stats);
  stats->name = line + strspn(line, " ");
  // A container names its interfaces with any bytes.
  text_make_printable(stats->name);
  stats->rx_bytes = columns[0];
  stats->rx_packets = columns[1];
  stats->rx_errors = columns[2];
  stats->rx_dropped = columns[3];
  stats->tx_bytes = columns[8];
  stats->tx_packets = columns[9];
  stats->tx_errors = columns[10];
  stats->tx_dropped = columns[11];
  return stats;
}

bool stats_read_interfaces(char* content, Grpc__StatsContainerResponse* response) {
  response->network_stats =
      arena_allocate(MAX_STATS_INTERFACES * sizeof(response->network_stats[0]));
  if (response->network_stats == NULL) {
    return false;
  }
  for (char* line; response->n_network_stats < MAX_STATS_INTERFACES &&
                   (line = strsep(&content, "\n")) != NULL;) {
    Grpc__NetworkStats* stats = read_interface(line);
    if (stats != NULL) {
      response->network_stats[response->n_network_stats++] = stats;
    }
  }
  return !arena_exhausted();
}
