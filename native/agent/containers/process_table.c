#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "files.h"
#include "processes.h"

// --- What they are

enum { kReadSize = 4096, kStatFields = 22, kCommandSize = 4096, kNameSize = 64 };

// Numbers of /proc/<pid>/stat, counted from the state, which is 0.
enum stat_field {
  STAT_PARENT = 1,
  STAT_GROUP = 2,
  STAT_SESSION = 3,
  STAT_TERMINAL = 4,
  STAT_USER_TIME = 11,
  STAT_SYSTEM_TIME = 12,
  STAT_NICE = 16,
  STAT_THREADS = 17,
  STAT_START = 19,
  STAT_SIZE = 20,
  STAT_PAGES = 21,
};

struct row {
  pid_t pid;
  uint64_t user;
  char state[2];
  bool nice_is_negative;
  uint64_t stat[kStatFields];
  char name[kNameSize];
  char command[kCommandSize];
  // Of the guest's clocks, in seconds.
  uint64_t now;
  uint64_t uptime;
  uint64_t ticks;
};

static bool read_stat(int directory, struct row* row) {
  char content[1024];
  if (file_read(directory, "stat", content, sizeof(content)) <= 0) {
    return false;
  }
  // The name is the process's own choice: it may have any bytes.
  const char* open = strchr(content, '(');
  char* close = strrchr(content, ')');
  if (open == NULL || close == NULL || close < open || close[1] != ' ' || close[2] == '\0') {
    return false;
  }
  *close = '\0';
  text_copy(row->name, sizeof(row->name), open + 1, strnlen(open + 1, sizeof(row->name) - 1));
  text_make_printable(row->name);
  char* rest = close + 2;
  row->state[0] = *rest;
  strsep(&rest, " ");
  for (size_t i = 1; i < kStatFields; i++) {
    const char* word = strsep(&rest, " ");
    if (word == NULL) {
      return false;
    }
    const bool negative = word[0] == '-';
    if (i == STAT_NICE) {
      row->nice_is_negative = negative;
    }
    word += negative ? 1 : 0;
    if (!text_number(word, strcspn(word, "\n"), UINT64_MAX, &row->stat[i])) {
      return false;
    }
  }
  return true;
}

static bool read_user(int directory, struct row* row) {
  char content[kReadSize];
  if (file_read(directory, "status", content, sizeof(content)) <= 0) {
    return false;
  }
  // Of the four the one that counts, the second.
  const char* line = strstr(content, "\nUid:\t");
  const char* tab = line == NULL ? NULL : strchr(line + sizeof("\nUid:\t") - 1, '\t');
  return tab != NULL && text_number(tab + 1, strcspn(tab + 1, "\t"), UINT32_MAX, &row->user);
}

static void read_command(int directory, struct row* row) {
  const long length = file_read(directory, "cmdline", row->command, sizeof(row->command));
  if (length <= 0) {
    text_copy(row->command, sizeof(row->command), row->name, strlen(row->name));
    return;
  }
  size_t end = (size_t)length;
  while (end > 0 && row->command[end - 1] == '\0') {
    end--;
  }
  for (size_t i = 0; i < end; i++) {
    row->command[i] = row->command[i] == '\0' ? ' ' : row->command[i];
  }
  row->command[end] = '\0';
  text_make_printable(row->command);
}

static bool read_row(int proc, struct row* row) {
  struct text name;
  text_clear(&name);
  text_add_number(&name, (uint64_t)row->pid);
  __attribute__((cleanup(close_descriptor))) const int directory =
      openat(proc, name.data, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory < 0 || !read_stat(directory, row) || !read_user(directory, row)) {
    return false;
  }
  read_command(directory, row);
  return true;
}

// --- How they are written

enum {
  kMinute = 60,
  kHour = 60 * kMinute,
  kDay = 24 * kHour,
  kKib = 1024,
  kFirstTerminalMajor = 136,
  kTerminalsPerMajor = 256
};

static void add_two_digits(struct text* to, uint64_t number) {
  text_add(to, number < 10 ? "0" : "");
  text_add_number(to, number);
}

static uint64_t cpu_seconds(const struct row* row) {
  return (row->stat[STAT_USER_TIME] + row->stat[STAT_SYSTEM_TIME]) / row->ticks;
}

static uint64_t age(const struct row* row) {
  const uint64_t start = row->stat[STAT_START] / row->ticks;
  return row->uptime > start ? row->uptime - start : 0;
}

static void write_pid(struct text* to, const struct row* row) {
  text_add_number(to, (uint64_t)row->pid);
}

static void write_user(struct text* to, const struct row* row) { text_add_number(to, row->user); }

static void write_state(struct text* to, const struct row* row) { text_add(to, row->state); }

static void write_name(struct text* to, const struct row* row) { text_add(to, row->name); }

static void write_share(struct text* to, const struct row* row) {
  const uint64_t seconds = age(row);
  text_add_number(to, seconds == 0 ? 0 : cpu_seconds(row) * 100 / seconds);
}

static void write_start(struct text* to, const struct row* row) {
  const uint64_t since = age(row);
  const uint64_t start = (row->now > since ? row->now - since : 0) % kDay;
  add_two_digits(to, start / kHour);
  text_add(to, ":");
  add_two_digits(to, start % kHour / kMinute);
}

static void write_time(struct text* to, const struct row* row) {
  const uint64_t seconds = cpu_seconds(row);
  add_two_digits(to, seconds / kHour);
  text_add(to, ":");
  add_two_digits(to, seconds % kHour / kMinute);
  text_add(to, ":");
  add_two_digits(to, seconds % kMinute);
}

static void write_terminal(struct text* to, const struct row* row) {
  const uint64_t number = row->stat[STAT_TERMINAL];
  const uint64_t major = number >> 8 & 0xfff;
  const uint64_t minor = (number & 0xff) | (number >> 12 & 0xfff00);
  if (major < kFirstTerminalMajor || major >= kFirstTerminalMajor + 8) {
    text_add(to, "?");
    return;
  }
  text_add(to, "pts/");
  text_add_number(to, (major - kFirstTerminalMajor) * kTerminalsPerMajor + minor);
}

static void write_nice(struct text* to, const struct row* row) {
  text_add(to, row->nice_is_negative ? "-" : "");
  text_add_number(to, row->stat[STAT_NICE]);
}

static void write_size(struct text* to, const struct row* row) {
  text_add_number(to, row->stat[STAT_SIZE] / kKib);
}

static void write_resident(struct text* to, const struct row* row) {
  text_add_number(to, row->stat[STAT_PAGES] * (uint64_t)sysconf(_SC_PAGESIZE) / kKib);
}

struct column {
  const char* name;
  const char* header;
  size_t width;
  bool right;
  // NULL: the number `field` of stat; without one: the command line.
  void (*write)(struct text* to, const struct row* row);
  enum stat_field field;
};

static const struct column kColumns[] = {
    {"uid", "UID", 8, false, write_user, 0},       {"user", "USER", 8, false, write_user, 0},
    {"pid", "PID", 7, true, write_pid, 0},         {"ppid", "PPID", 7, true, NULL, STAT_PARENT},
    {"pgid", "PGID", 7, true, NULL, STAT_GROUP},   {"sid", "SID", 7, true, NULL, STAT_SESSION},
    {"c", "C", 2, true, write_share, 0},           {"stime", "STIME", 5, false, write_start, 0},
    {"tty", "TTY", 8, false, write_terminal, 0},   {"time", "TIME", 8, true, write_time, 0},
    {"s", "S", 1, false, write_state, 0},          {"stat", "STAT", 4, false, write_state, 0},
    {"ni", "NI", 3, true, write_nice, 0},          {"nlwp", "NLWP", 4, true, NULL, STAT_THREADS},
    {"vsz", "VSZ", 8, true, write_size, 0},        {"rss", "RSS", 7, true, write_resident, 0},
    {"comm", "COMMAND", 15, false, write_name, 0}, {"cmd", "CMD", 0, false, NULL, 0},
    {"args", "COMMAND", 0, false, NULL, 0},
};

void processes_write_table(struct page* page, int proc, const pid_t* pids, size_t count,
                           const struct columns* columns) {
  for (size_t i = 0; i < columns->count; i++) {
    const struct column* column = columns->list[i];
    page_add(page, i == 0 ? "" : " ");
    page_add_cell(page, column->header, column->width, column->right);
  }
  page_add(page, "\n");
  struct timespec now;
  struct timespec uptime;
  clock_gettime(CLOCK_REALTIME, &now);
  clock_gettime(CLOCK_BOOTTIME, &uptime);
  for (size_t i = 0; i < count; i++) {
    struct row row = {.pid = pids[i],
                      .now = (uint64_t)now.tv_sec,
                      .uptime = (uint64_t)uptime.tv_sec,
                      .ticks = (uint64_t)sysconf(_SC_CLK_TCK)};
    if (!read_row(proc, &row)) {
      continue;
    }
    for (size_t at = 0; at < columns->count; at++) {
      const struct column* column = columns->list[at];
      struct text cell;
      text_clear(&cell);
      if (column->write != NULL) {
        column->write(&cell, &row);
      } else if (column->field != 0) {
        text_add_number(&cell, row.stat[column->field]);
      }
      const bool is_command = column->write == NULL && column->field == 0;
      page_add(page, at == 0 ? "" : " ");
      page_add_cell(page, is_command ? row.command : cell.data, column->width, column->right);
    }
    page_add(page, "\n");
  }
}

// --- Which columns

static bool add_column(struct columns* columns, const char* name, size_t length,
                       struct text* reason) {
  for (size_t i = 0; i < sizeof(kColumns) / sizeof(kColumns[0]); i++) {
    if (strlen(kColumns[i].name) != length || strncmp(kColumns[i].name, name, length) != 0) {
      continue;
    }
    if (columns->count == MAX_COLUMNS) {
      text_join(reason, "too many columns", NULL);
      return false;
    }
    columns->list[columns->count++] = &kColumns[i];
    return true;
  }
  text_join(reason, "no such column for -o: ", name, NULL);
  return false;
}

// "pid,ppid"
static bool add_columns(struct columns* columns, const char* names, struct text* reason) {
  for (;;) {
    const size_t length = strcspn(names, ",");
    if (!add_column(columns, names, length, reason)) {
      return false;
    }
    if (names[length] == '\0') {
      return true;
    }
    names += length + 1;
  }
}

static bool read_flags(const char* flags, bool* full) {
  const bool known =
      flags[0] == '-' && flags[1] != '\0' && strspn(flags + 1, "eAf") == strlen(flags + 1);
  *full |= known && strchr(flags, 'f') != NULL;
  return known;
}

bool columns_read(char** args, size_t count, struct columns* columns, struct text* reason) {
  *columns = (struct columns){0};
  bool full = count == 0;
  bool chosen = false;
  for (size_t i = 0; i < count; i++) {
    if (strncmp(args[i], "-o", 2) == 0) {
      const bool joined = args[i][2] != '\0';
      if (!joined && i + 1 == count) {
        text_join(reason, "-o needs columns", NULL);
        return false;
      }
      chosen = true;
      if (!add_columns(columns, joined ? args[i] + 2 : args[++i], reason)) {
        return false;
      }
    } else if (!read_flags(args[i], &full)) {
      text_join(reason, "args may have -e, -A, -f and -o, not ", args[i], NULL);
      return false;
    }
  }
  if (!chosen) {
    return add_columns(columns, full ? "uid,pid,ppid,c,stime,tty,time,cmd" : "pid,tty,time,comm",
                       reason);
  }
  for (size_t i = 0; i < columns->count; i++) {
    if (strcmp(columns->list[i]->name, "pid") == 0) {
      return true;
    }
  }
  text_join(reason, "-o must have the column pid", NULL);
  return false;
}
