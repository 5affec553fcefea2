#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void close_descriptor(const int* fd) {
  if (*fd >= 0) {
    close(*fd);
  }
}

int file_write(int directory, const char* path, const char* value, struct text* reason) {
  __attribute__((cleanup(close_descriptor))) const int fd =
      openat(directory, path, O_WRONLY | O_CLOEXEC);
  if (fd >= 0 && write(fd, value, strlen(value)) >= 0) {
    return 0;
  }
  const int error = errno;
  text_join(reason, fd < 0 ? "open(" : "write ", fd < 0 ? path : value, fd < 0 ? ")" : " to ",
            fd < 0 ? "" : path, ": ", strerror(error), NULL);
  return error;
}

long file_read(int directory, const char* path, char* to, size_t size) {
  __attribute__((cleanup(close_descriptor))) const int fd =
      openat(directory, path, O_RDONLY | O_CLOEXEC);
  size_t length = 0;
  while (fd >= 0 && length + 1 < size) {
    const ssize_t got = read(fd, to + length, size - 1 - length);
    if (got < 0) {
      return -1;
    }
    if (got == 0) {
      break;
    }
    length += (size_t)got;
  }
  if (fd < 0) {
    return -1;
  }
  to[length] = '\0';
  return (long)length;
}

bool file_number(int directory, const char* path, uint64_t* number) {
  char bytes[32];
  const long length = file_read(directory, path, bytes, sizeof(bytes));
  if (length <= 0) {
    return false;
  }
  const size_t digits = strcspn(bytes, "\n");
  if (strncmp(bytes, "max", digits) == 0 && digits == 3) {
    *number = UINT64_MAX;
    return true;
  }
  return text_number(bytes, digits, UINT64_MAX, number);
}

bool file_field(const char* content, const char* key, uint64_t* number) {
  const size_t length = strlen(key);
  for (const char* line = content; line != NULL && *line != '\0';) {
    if (strncmp(line, key, length) == 0 && line[length] == ' ') {
      const char* value = line + length + 1;
      return text_number(value, strcspn(value, "\n"), UINT64_MAX, number);
    }
    const char* end = strchr(line, '\n');
    line = end == NULL ? NULL : end + 1;
  }
  return false;
}

int directories_make(const char* path, unsigned mode) {
  enum { kSize = 4096 };
  char part[kSize];
  const size_t length = strlen(path);
  if (length >= kSize) {
    return ENAMETOOLONG;
  }
  if (mkdir(path, mode) == 0 || errno == EEXIST) {
    return 0;
  }
  for (size_t i = 1; i <= length; i++) {
    if (path[i] != '/' && path[i] != '\0') {
      continue;
    }
    memcpy(part, path, i);
    part[i] = '\0';
    if (mkdir(part, mode) < 0 && errno != EEXIST) {
      return errno;
    }
  }
  return 0;
}
