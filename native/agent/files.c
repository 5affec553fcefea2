#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "files_at.h"
#include "inroot.h"
#include "root.h"

enum { kPermissions = 07777 };

// What an operation is asked and answers.
struct unary {
  const FileRequest* request;
  struct file_path path;
  struct file_error error;
  FileEvent event;
  FileInfo info;
  uint8_t data[AGENT_PATH_SIZE];
};

static void answer(const struct call* call, bool (*operate)(struct unary*)) {
  if (!root_is_ready()) {
    call_fail(call, TTRPC_FAILED_PRECONDITION, "no root yet: call SetUpRoot first");
    return;
  }
  // One at a time: the agent has one thread.
  static struct unary unary;
  unary.request = call_decode(call, &embervm__agent__v1__file_request__descriptor);
  if (unary.request == NULL) {
    return;
  }
  embervm__agent__v1__file_event__init(&unary.event);
  embervm__agent__v1__file_info__init(&unary.info);
  if (!file_path_get(&unary.path, &unary.request->path, &unary.error) || !operate(&unary)) {
    embervm__agent__v1__file_event__init(&unary.event);
    unary.event.error_number = unary.error.number;
    unary.event.call = unary.error.call;
  }
  FileInfo* entries[] = {&unary.info};
  unary.event.entries = entries;
  call_reply(call, &unary.event.base);
}

static bool has_flag(const struct unary* unary, uint32_t flag) {
  return (unary->request->flags & flag) != 0;
}

static int open_itself(struct unary* unary) {
  const int follow = has_flag(unary, FILE_FLAG(NO_FOLLOW)) ? O_NOFOLLOW : 0;
  return file_open(&unary->path, O_PATH | follow, &unary->error);
}

static bool stat_one(struct unary* unary) {
  FILE_SCOPED int fd = open_itself(unary);
  struct stat status;
  if (fd < 0) {
    return false;
  }
  if (fstat(fd, &status) < 0) {
    return file_failed(&unary->error, "stat");
  }
  file_describe(&unary->info, &status);
  unary->event.n_entries = 1;
  return true;
}

static bool read_link(struct unary* unary) {
  FILE_SCOPED int fd = file_open(&unary->path, O_PATH | O_NOFOLLOW, &unary->error);
  if (fd < 0) {
    return false;
  }
  const ssize_t length = readlinkat(fd, "", (char*)unary->data, sizeof(unary->data));
  if (length < 0) {
    // What an empty path gives for a file that is no link.
    errno = errno == ENOENT ? EINVAL : errno;
    return file_failed(&unary->error, "readlink");
  }
  unary->event.data = (ProtobufCBinaryData){.len = (size_t)length, .data = unary->data};
  return true;
}

static bool make_directory(struct unary* unary) {
  const uint32_t mode = has_flag(unary, FILE_FLAG(SET_MODE)) ? unary->request->mode & kPermissions
                                                             : FILE_DEFAULT_DIRECTORY_MODE;
  if (has_flag(unary, FILE_FLAG(RECURSIVE))) {
    return file_make_directories(&unary->path, mode, &unary->error);
  }
  if (file_make_directory(&unary->path, mode, &unary->error)) {
    return true;
  }
  if (unary->error.number == EBUSY) {
    unary->error.number = EEXIST;
  }
  return false;
}

static bool remove_one(struct unary* unary) {
  const char* name;
  FILE_SCOPED int parent = file_open_parent(&unary->path, &name, &unary->error);
  if (parent < 0) {
    return false;
  }
  if (unlinkat(parent, name, 0) == 0) {
    return true;
  }
  if (errno != EISDIR) {
    return file_failed(&unary->error, "unlink");
  }
  return unlinkat(parent, name, AT_REMOVEDIR) == 0 || file_failed(&unary->error, "rmdir");
}

static bool rename_one(struct unary* unary) {
  struct file_path to;
  const char* from_name;
  const char* to_name;
  if (!file_path_get(&to, &unary->request->target, &unary->error)) {
    return false;
  }
  FILE_SCOPED int from_dir = file_open_parent(&unary->path, &from_name, &unary->error);
  if (from_dir < 0) {
    return false;
  }
  FILE_SCOPED int to_dir = file_open_parent(&to, &to_name, &unary->error);
  if (to_dir < 0) {
    return false;
  }
  // Not libc's: <stdio.h>, which declares it, does not go with the messages.
  return syscall(SYS_renameat, from_dir, from_name, to_dir, to_name) == 0 ||
         file_failed(&unary->error, "rename");
}

static bool make_symlink(struct unary* unary) {
  const ProtobufCBinaryData* target = &unary->request->target;
  if (target->len == 0 || target->len >= AGENT_PATH_SIZE ||
      memchr(target->data, '\0', target->len) != NULL) {
    return file_refused(&unary->error, EINVAL, "symlink");
  }
  memcpy(unary->data, target->data, target->len);
  unary->data[target->len] = '\0';
  const char* name;
  FILE_SCOPED int parent = file_open_parent(&unary->path, &name, &unary->error);
  if (parent < 0) {
    return false;
  }
  return symlinkat((const char*)unary->data, parent, name) == 0 ||
         file_failed(&unary->error, "symlink");
}

static bool set_attributes(struct unary* unary) {
  FILE_SCOPED int fd = open_itself(unary);
  const FileRequest* request = unary->request;
  const struct file_attributes attributes = {.flags = request->flags,
                                             .mode = request->mode,
                                             .uid = request->uid,
                                             .gid = request->gid,
                                             .mtime_ns = request->mtime_ns};
  return fd >= 0 && file_set(fd, &attributes, &unary->error);
}

void files_stat(const struct call* call) { answer(call, stat_one); }
void files_read_link(const struct call* call) { answer(call, read_link); }
void files_make_directory(const struct call* call) { answer(call, make_directory); }
void files_remove(const struct call* call) { answer(call, remove_one); }
void files_rename(const struct call* call) { answer(call, rename_one); }
void files_make_symlink(const struct call* call) { answer(call, make_symlink); }
void files_set_attributes(const struct call* call) { answer(call, set_attributes); }
