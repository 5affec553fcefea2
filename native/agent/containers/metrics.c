#include "metrics.h"

#include <ctype.h>
#include <string.h>
#include <unistd.h>

#include "../arena.h"
#include "../text.h"
#include "files.h"

enum {
  kFileSize = 32 * 1024,
  kItemSize = 64,
  kKib = 1024,
  // Disks, interfaces and CPUs each.
  kMaxSources = 256,
};

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

// --- Lines

static void start_family(struct page* page, const char* name, const char* type, const char* help) {
  const char* const parts[] = {"# HELP ", name, " ", help, "\n# TYPE ", name, " ", type, "\n"};
  for (size_t i = 0; i < COUNT(parts); i++) {
    page_add(page, parts[i]);
  }
}

// A label's value. What it names may have been named by a container.
static void add_label(struct page* page, const char* name, const char* from) {
  char value[kItemSize];
  text_copy(value, sizeof(value), from, strnlen(from, sizeof(value) - 1));
  text_make_printable(value);
  for (char* at = value; *at != '\0'; at++) {
    *at = (char)(*at == '"' || *at == '\\' ? '?' : *at);
  }
  page_add(page, name);
  page_add(page, "=\"");
  page_add(page, value);
  page_add(page, "\"");
}

struct sample {
  const char* name;
  // What has several of the items; NULL for none.
  const char* label;
  const char* source;
  const char* item;
};

static void start_sample(struct page* page, const struct sample* sample) {
  page_add(page, sample->name);
  if (sample->item == NULL) {
    page_add(page, " ");
    return;
  }
  page_add(page, "{");
  if (sample->label != NULL) {
    add_label(page, sample->label, sample->source);
    page_add(page, ",");
  }
  add_label(page, "item", sample->item);
  page_add(page, "} ");
}

static void add_number(struct page* page, const struct sample* sample, uint64_t value) {
  start_sample(page, sample);
  page_add_number(page, value);
  page_add(page, "\n");
}

static void add_single(struct page* page, const char* name, const char* type, const char* help,
                       uint64_t value) {
  start_family(page, name, type, help);
  const struct sample sample = {.name = name};
  add_number(page, &sample, value);
}

// The next word, or NULL.
static char* next_word(char** rest) {
  char* word;
  do {
    word = strsep(rest, " \t");
  } while (word != NULL && *word == '\0');
  return word;
}

static bool next_number(char** rest, uint64_t* number) {
  const char* word = next_word(rest);
  return word != NULL && text_number(word, strlen(word), UINT64_MAX, number);
}

// One line for each of the numbers that follow, by the names of a table.
static void add_columns(struct page* page, struct sample* sample, char* rest,
                        const char* const* items, size_t count) {
  for (size_t i = 0; i < count; i++) {
    uint64_t value;
    if (!next_number(&rest, &value)) {
      return;
    }
    sample->item = items[i];
    add_number(page, sample, value);
  }
}

// --- This program

static void add_agent_stat(struct page* page, char* content) {
  enum { kUserTime = 11, kChildSystemTime = 14, kThreads = 17, kSize = 20, kPages = 21 };
  static const char* const items[] = {"utime", "stime", "cutime", "cstime"};
  uint64_t fields[kPages + 1];
  char* rest = strrchr(content, ')');
  if (rest == NULL || next_word(&rest) == NULL || next_word(&rest) == NULL) {
    return;
  }
  for (size_t i = 1; i <= kPages; i++) {
    const char* word = next_word(&rest);
    if (word == NULL) {
      return;
    }
    // Some are negative, but none of ours.
    if (!text_number(word, strcspn(word, "\n"), UINT64_MAX, &fields[i])) {
      fields[i] = 0;
    }
  }
  struct sample sample = {.name = "kata_agent_proc_stat"};
  start_family(page, sample.name, "gauge", "CPU time of the agent, in clock ticks.");
  for (size_t i = kUserTime; i <= kChildSystemTime; i++) {
    sample.item = items[i - kUserTime];
    add_number(page, &sample, fields[i]);
  }
  add_single(page, "kata_agent_threads", "gauge", "Threads of the agent.", fields[kThreads]);
  add_single(page, "kata_agent_total_time", "gauge", "CPU time of the agent, in seconds.",
             (fields[kUserTime] + fields[kUserTime + 1]) / (uint64_t)sysconf(_SC_CLK_TCK));
  add_single(page, "kata_agent_total_vm", "gauge", "Virtual memory of the agent, in bytes.",
             fields[kSize]);
  add_single(page, "kata_agent_total_rss", "gauge", "Resident memory of the agent, in bytes.",
             fields[kPages] * (uint64_t)sysconf(_SC_PAGESIZE));
}

// "MemTotal:" to "mem_total", "Active(anon):" to "active_anon".
static void make_item(const char* key, char item[kItemSize]) {
  size_t length = 0;
  for (size_t i = 0; key[i] != '\0' && key[i] != ':' && length + 2 < kItemSize; i++) {
    const bool is_word = isalnum((unsigned char)key[i]) != 0;
    const bool starts =
        i > 0 && isupper((unsigned char)key[i]) != 0 && (islower((unsigned char)key[i - 1]) != 0);
    if ((starts || !is_word) && length > 0 && item[length - 1] != '_') {
      item[length++] = '_';
    }
    if (is_word) {
      item[length++] = (char)tolower((unsigned char)key[i]);
    }
  }
  while (length > 0 && item[length - 1] == '_') {
    length--;
  }
  item[length] = '\0';
}

// "<key> <number>" or "<key>: <number> kB" on each line.
static void add_pairs(struct page* page, const char* name, const char* type, const char* help,
                      char* content) {
  start_family(page, name, type, help);
  for (char* line; (line = strsep(&content, "\n")) != NULL;) {
    const char* key = next_word(&line);
    uint64_t value;
    if (key == NULL || !next_number(&line, &value)) {
      continue;
    }
    const char* unit = next_word(&line);
    char item[kItemSize];
    make_item(key, item);
    const struct sample sample = {.name = name, .item = item};
    add_number(page, &sample, unit != NULL && strcmp(unit, "kB") == 0 ? value * kKib : value);
  }
}

static void add_agent_io(struct page* page, char* content) {
  add_pairs(page, "kata_agent_io_stat", "counter", "Bytes and calls of the agent.", content);
}

static void add_meminfo(struct page* page, char* content) {
  add_pairs(page, "kata_guest_meminfo", "gauge", "Memory of the guest, in bytes.", content);
}

static void add_vmstat(struct page* page, char* content) {
  add_pairs(page, "kata_guest_vm_stat", "gauge", "Counters of the guest's memory.", content);
}

// --- The guest

// "0.00 0.01 0.05 1/60 123"
static void add_load(struct page* page, char* content) {
  static const char* const items[] = {"load1", "load5", "load15"};
  struct sample sample = {.name = "kata_guest_load"};
  start_family(page, sample.name, "gauge", "Load averages of the guest.");
  for (size_t i = 0; i < COUNT(items); i++) {
    const char* value = next_word(&content);
    if (value == NULL || strspn(value, "0123456789.") != strlen(value)) {
      return;
    }
    sample.item = items[i];
    start_sample(page, &sample);
    page_add(page, value);
    page_add(page, "\n");
  }
  char* tasks = next_word(&content);
  uint64_t running;
  uint64_t all;
  const size_t digits = tasks == NULL ? 0 : strcspn(tasks, "/");
  if (tasks == NULL || tasks[digits] != '/' || !text_number(tasks, digits, UINT64_MAX, &running) ||
      !text_number(tasks + digits + 1, strlen(tasks + digits + 1), UINT64_MAX, &all)) {
    return;
  }
  sample.name = "kata_guest_tasks";
  start_family(page, sample.name, "gauge", "Tasks of the guest: that run, and all.");
  sample.item = "cur";
  add_number(page, &sample, running);
  sample.item = "max";
  add_number(page, &sample, all);
}

static void add_cpus(struct page* page, char* content) {
  static const char* const items[] = {"user", "nice",    "system", "idle",  "iowait",
                                      "irq",  "softirq", "steal",  "guest", "guest_nice"};
  struct sample sample = {.name = "kata_guest_cpu_time", .label = "cpu"};
  start_family(page, sample.name, "counter", "CPU time of the guest, in clock ticks.");
  char* line;
  for (size_t i = 0; i < kMaxSources && (line = strsep(&content, "\n")) != NULL; i++) {
    const char* name = next_word(&line);
    if (name == NULL || strncmp(name, "cpu", 3) != 0) {
      return;
    }
    sample.source = name[3] == '\0' ? "total" : name + 3;
    add_columns(page, &sample, line, items, COUNT(items));
  }
}

static void add_disks(struct page* page, char* content) {
  static const char* const items[] = {"reads",
                                      "merged",
                                      "sectors_read",
                                      "time_reading",
                                      "writes",
                                      "writes_merged",
                                      "sectors_written",
                                      "time_writing",
                                      "in_progress",
                                      "time_in_progress",
                                      "weighted_time_in_progress",
                                      "discards",
                                      "discards_merged",
                                      "sectors_discarded",
                                      "time_discarding",
                                      "flushes",
                                      "time_flushing"};
  struct sample sample = {.name = "kata_guest_diskstat", .label = "disk"};
  start_family(page, sample.name, "gauge", "Requests of disks; times in ms.");
  char* line;
  for (size_t i = 0; i < kMaxSources && (line = strsep(&content, "\n")) != NULL; i++) {
    uint64_t ignored;
    if (next_number(&line, &ignored) && next_number(&line, &ignored) &&
        (sample.source = next_word(&line)) != NULL) {
      add_columns(page, &sample, line, items, COUNT(items));
    }
  }
}

static void add_interfaces(struct page* page, char* content) {
  static const char* const items[] = {
      "recv_bytes", "recv_packets", "recv_errs",       "recv_drop",
      "recv_fifo",  "recv_frame",   "recv_compressed", "recv_multicast",
      "sent_bytes", "sent_packets", "sent_errs",       "sent_drop",
      "sent_fifo",  "sent_colls",   "sent_carrier",    "sent_compressed"};
  struct sample sample = {.name = "kata_guest_netdev_stat", .label = "interface"};
  start_family(page, sample.name, "counter", "Traffic of network interfaces.");
  char* line;
  for (size_t i = 0; i < kMaxSources && (line = strsep(&content, "\n")) != NULL; i++) {
    char* colon = strrchr(line, ':');
    if (colon != NULL) {
      *colon = '\0';
      sample.source = line + strspn(line, " ");
      add_columns(page, &sample, colon + 1, items, COUNT(items));
    }
  }
}

static const struct {
  const char* path;
  void (*add)(struct page* page, char* content);
} kSources[] = {
    {"self/stat", add_agent_stat},
    {"self/io", add_agent_io},
    {"loadavg", add_load},
    {"stat", add_cpus},
    {"meminfo", add_meminfo},
    {"diskstats", add_disks},
    {"self/net/dev", add_interfaces},
    {"vmstat", add_vmstat},
};

bool metrics_write(struct page* page, int proc, uint64_t scrapes) {
  char* content = arena_allocate(kFileSize);
  if (content == NULL) {
    return false;
  }
  add_single(page, "kata_agent_scrape_count", "counter", "How often these were asked for.",
             scrapes);
  for (size_t i = 0; i < COUNT(kSources); i++) {
    if (file_read(proc, kSources[i].path, content, kFileSize) > 0) {
      kSources[i].add(page, content);
    }
  }
  while (page->cut && page->length > 0 && page->data[page->length - 1] != '\n') {
    page->data[--page->length] = '\0';
  }
  return true;
}
