#include "processes.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "files.h"

// --- Which there are

enum { kMaxGroups = 512, kMaxDepth = 16, kReadSize = 4096, kPidDigits = 10 };

struct search {
  pid_t* pids;
  size_t size;
  size_t count;
  size_t groups;
};

static int add_pid(struct search* search, const char* digits, size_t length) {
  uint64_t pid;
  // 0 is a process of a PID namespace that cannot be seen from here.
  if (!text_number(digits, length, INT32_MAX, &pid) || pid == 0) {
    return 0;
  }
  if (search->count == search->size) {
    return ENOBUFS;
  }
  search->pids[search->count++] = (pid_t)pid;
  return 0;
}

static int read_pids(int group, struct search* search) {
  __attribute__((cleanup(close_descriptor))) const int fd =
      openat(group, "cgroup.procs", O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    return errno;
  }
  char bytes[kReadSize];
  char digits[kPidDigits];
  size_t length = 0;
  for (;;) {
    const ssize_t got = read(fd, bytes, sizeof(bytes));
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got <= 0) {
      // A group of threads has no processes: they are those of the group above it.
      return got == 0 || errno == EOPNOTSUPP || errno == ENODEV ? 0 : errno;
    }
    for (ssize_t i = 0; i < got; i++) {
      if (bytes[i] != '\n') {
        if (length < sizeof(digits)) {
          digits[length++] = bytes[i];
        }
        continue;
      }
      const int error = add_pid(search, digits, length);
      if (error != 0) {
        return error;
      }
      length = 0;
    }
  }
}

static int visit(int group, unsigned depth, struct search* search);

static int visit_below(DIR* directory, unsigned depth, struct search* search) {
  int error = 0;
  const struct dirent* entry;
  while (error == 0 && (entry = readdir(directory)) != NULL) {
    if (entry->d_type != DT_DIR || entry->d_name[0] == '.') {
      continue;
    }
    __attribute__((cleanup(close_descriptor))) const int below =
        openat(dirfd(directory), entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    // It was removed meanwhile.
    error = below < 0 ? (errno == ENOENT ? 0 : errno) : visit(below, depth + 1, search);
  }
  return error;
}

static int visit(int group, unsigned depth, struct search* search) {
  if (depth > kMaxDepth || ++search->groups > kMaxGroups) {
    return ENOBUFS;
  }
  const int error = read_pids(group, search);
  if (error != 0) {
    return error;
  }
  const int fd = openat(group, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* directory = fd < 0 ? NULL : fdopendir(fd);
  if (directory == NULL) {
    const int reason = errno;
    close_descriptor(&fd);
    return reason;
  }
  const int result = visit_below(directory, depth, search);
  closedir(directory);
  return result;
}

int processes_find(int group, pid_t* pids, size_t size, size_t* count) {
  struct search search = {.pids = pids, .size = size};
  const int error = visit(group, 0, &search);
  *count = search.count;
  return error;
}

void processes_write_json(struct page* page, const pid_t* pids, size_t count) {
  page_add(page, "[");
  for (size_t i = 0; i < count; i++) {
    page_add(page, i == 0 ? "" : ",");
    page_add_number(page, (uint64_t)pids[i]);
  }
  page_add(page, "]");
}
