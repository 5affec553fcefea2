// One file at a time: where a path of a request leads inside the workload's root,
// and what is made, replaced or changed there.
#ifndef EMBERVM_AGENT_FILES_AT_H_
#define EMBERVM_AGENT_FILES_AT_H_

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>

#include "limits.h"
#include "messages.h"

// Why an operation failed: an errno and the system call that gave it.
struct file_error {
  int number;
  // A literal; not const, as the generated messages are not.
  char* call;
};

// Sets the error from errno; always false.
bool file_failed(struct file_error* error, char* call);
// The same with a number of our own.
bool file_refused(struct file_error* error, int number, char* call);

struct file_path {
  size_t length;
  char text[AGENT_PATH_SIZE];
};

// An absolute path without NUL.
bool file_path_get(struct file_path* path, const ProtobufCBinaryData* from,
                   struct file_error* error);

// Opens what the path names. -1 with the error.
int file_open(const struct file_path* path, int flags, struct file_error* error);

// Opens the directory that holds what the path names, and cuts the path there:
// `name` is what it ends in, which the caller takes as it is, link or not. "/",
// "." and ".." are in no directory: EBUSY. -1 with the error.
int file_open_parent(struct file_path* path, const char** name, struct file_error* error);

// Makes a file or a link, in the place of anything but a directory. -1 or false
// with the error.
int file_create_at(int dir_fd, const char* name, struct file_error* error);
bool file_symlink_at(const char* target, int dir_fd, const char* name, struct file_error* error);

struct file_attributes {
  // Bits FILE_FLAG(SET_*) say which of these are meant.
  uint32_t flags;
  uint32_t mode;
  uint32_t uid;
  uint32_t gid;
  int64_t mtime_ns;
};

// Of a descriptor, which may be O_PATH. A link has no mode: it is left out.
bool file_set(int fd, const struct file_attributes* attributes, struct file_error* error);

#define FILE_DEFAULT_DIRECTORY_MODE 0755u

// Makes one directory; the path is cut.
bool file_make_directory(struct file_path* path, uint32_t mode, struct file_error* error);
// Makes what is missing of a path: `mode` is for the last of them.
bool file_make_directories(struct file_path* path, uint32_t mode, struct file_error* error);

void file_describe(FileInfo* info, const struct stat* status);

void file_close(int* fd);

// A descriptor that is closed where its scope ends.
#define FILE_SCOPED __attribute__((cleanup(file_close)))

#endif  // EMBERVM_AGENT_FILES_AT_H_
