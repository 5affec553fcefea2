#include "machine.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "../ttrpc.h"
#include "bounds.h"
#include "files.h"

enum { kHexDigitBits = 4, kHexDigits = 16 };

static void close_directory(DIR* const* directory) {
  if (*directory != NULL) {
    closedir(*directory);
  }
}

static int open_failed(const char* path, int error, struct text* reason) {
  text_failure(reason, "open", path, error);
  return TTRPC_INTERNAL;
}

// "cpu12" for "cpu".
static bool is_numbered(const char* name, const char* prefix) {
  const size_t length = strlen(prefix);
  uint64_t number;
  return strncmp(name, prefix, length) == 0 &&
         text_number(name + length, strlen(name + length), UINT32_MAX, &number);
}

// Writes `on` to `file` of each numbered entry that has `off` there, `limit` of them.
// How many, or -1 with the reason.
struct switching {
  const char* prefix;
  const char* file;
  const char* off;
  const char* on;
  uint32_t limit;
};

static int switch_on(int directory, const char* name, const struct switching* what,
                     struct text* reason) {
  __attribute__((cleanup(close_descriptor))) const int entry =
      openat(directory, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
  char content[32];
  // The first CPU may have no such file: it is always on.
  if (entry < 0 || file_read(entry, what->file, content, sizeof(content)) <= 0 ||
      strncmp(content, what->off, strlen(what->off)) != 0) {
    return 0;
  }
  if (file_write(entry, what->file, what->on, reason) != 0) {
    text_add(reason, " of ");
    text_add(reason, name);
    return -1;
  }
  return 1;
}

static int64_t switch_all(const char* path, const struct switching* what, struct text* reason) {
  __attribute__((cleanup(close_directory))) DIR* const directory = opendir(path);
  if (directory == NULL) {
    open_failed(path, errno, reason);
    return -1;
  }
  int64_t count = 0;
  const struct dirent* entry;
  while (count < what->limit && (entry = readdir(directory)) != NULL) {
    const int done = is_numbered(entry->d_name, what->prefix)
                         ? switch_on(dirfd(directory), entry->d_name, what, reason)
                         : 0;
    if (done < 0) {
      return -1;
    }
    count += done;
  }
  return count;
}

int machine_online_cpus(const char* cpus, uint32_t count, struct text* reason) {
  const struct switching what = {.prefix = "cpu",
                                 .file = "online",
                                 .off = "0",
                                 .on = "1",
                                 .limit = count == 0 ? UINT32_MAX : count};
  const int64_t done = switch_all(cpus, &what, reason);
  if (done < 0) {
    return TTRPC_INTERNAL;
  }
  if (done < count) {
    text_join(reason, "nb_cpus is ", NULL);
    text_add_number(reason, count);
    text_add(reason, ", of which the guest had off line ");
    text_add_number(reason, (uint64_t)done);
    return TTRPC_FAILED_PRECONDITION;
  }
  return 0;
}

int machine_online_memory(const char* memory, struct text* reason) {
  const struct switching what = {
      .prefix = "memory", .file = "state", .off = "offline", .on = "online", .limit = UINT32_MAX};
  return switch_all(memory, &what, reason) < 0 ? TTRPC_INTERNAL : 0;
}

// --- Memory

static int open_memory(const char* path) { return open(path, O_PATH | O_DIRECTORY | O_CLOEXEC); }

bool machine_has_probe(const char* memory) {
  __attribute__((cleanup(close_descriptor))) const int directory = open_memory(memory);
  return directory >= 0 && faccessat(directory, "probe", F_OK, 0) == 0;
}

static void add_hex(struct text* to, uint64_t number) {
  char digits[kHexDigits + 1];
  size_t at = kHexDigits;
  digits[at] = '\0';
  do {
    digits[--at] = "0123456789abcdef"[number & 0xf];
    number >>= kHexDigitBits;
  } while (number != 0);
  text_add(to, "0x");
  text_add(to, digits + at);
}

int machine_probe_memory(const char* memory, const uint64_t* addresses, size_t count,
                         struct text* reason) {
  if (count > MAX_PROBES) {
    text_join(reason, "memHotplugProbeAddr has too many addresses", NULL);
    return TTRPC_INVALID_ARGUMENT;
  }
  if (!machine_has_probe(memory)) {
    text_join(reason, "the guest's kernel has no ", memory, "/probe", NULL);
    return TTRPC_UNIMPLEMENTED;
  }
  __attribute__((cleanup(close_descriptor))) const int directory = open_memory(memory);
  for (size_t i = 0; i < count; i++) {
    struct text value;
    text_clear(&value);
    add_hex(&value, addresses[i]);
    if (file_write(directory, "probe", value.data, reason) != 0) {
      return TTRPC_INTERNAL;
    }
  }
  return 0;
}

uint64_t machine_memory_section(const char* memory) {
  __attribute__((cleanup(close_descriptor))) const int directory = open_memory(memory);
  char content[32];
  if (directory < 0 || file_read(directory, "block_size_bytes", content, sizeof(content)) <= 0) {
    return 0;
  }
  uint64_t size = 0;
  size_t digits = 0;
  for (const char* at = content; *at != '\n' && *at != '\0'; at++, digits++) {
    const char* digit = strchr("0123456789abcdef", *at);
    if (digit == NULL || digits == kHexDigits) {
      return 0;
    }
    size = size << kHexDigitBits | (uint64_t)(digit - "0123456789abcdef");
  }
  return size;
}
