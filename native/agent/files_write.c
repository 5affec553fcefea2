// Files.Write: what the client sends becomes a file, or a tree.
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "container.h"
#include "files.h"
#include "files_job.h"
#include "inroot.h"
#include "root.h"

enum { kPermissions = 07777, kDefaultFile = 0644, kPrivate = 0700 };

struct write_job {
  struct file_job job;
  // The file that is being written; -1 between two.
  int fd;
  // What it gets when it is complete.
  struct file_attributes attributes;
  // Where it is, for a message.
  struct text path;
};

static struct write_job* of(struct file_job* job) {
  return CONTAINER_OF(job, struct write_job, job);
}

static void prepare(struct file_job* job) { of(job)->fd = -1; }

static void release(struct file_job* job) { file_close(&of(job)->fd); }

// Gives the file that was written its attributes.
static bool complete(struct write_job* writing) {
  if (writing->fd < 0) {
    return true;
  }
  const bool set = file_set(writing->fd, &writing->attributes, &writing->job.error);
  // Some file systems say only now that there was no space.
  const int closed = close(writing->fd);
  writing->fd = -1;
  return set && (closed == 0 || file_failed(&writing->job.error, "close"));
}

static bool open_file(struct write_job* writing, struct file_path* path, uint32_t flags) {
  struct file_job* job = &writing->job;
  int how = O_WRONLY | O_CREAT | O_NONBLOCK | O_NOCTTY;
  how |= (flags & FILE_FLAG(APPEND)) != 0 ? O_APPEND : O_TRUNC;
  how |= (flags & FILE_FLAG(EXCLUSIVE)) != 0 ? O_EXCL : 0;
  writing->fd = create_in_root(root_fd(), path->text, how, kDefaultFile);
  struct stat status;
  if (writing->fd < 0) {
    return file_failed(&job->error, "open");
  }
  if (fstat(writing->fd, &status) < 0) {
    return file_failed(&job->error, "stat");
  }
  return S_ISREG(status.st_mode) || file_refused(&job->error, ENXIO, "open");
}

static bool make_directory(struct write_job* writing, struct file_path* path) {
  struct file_job* job = &writing->job;
  FILE_SCOPED int made = open_in_root(root_fd(), path->text, O_PATH | O_DIRECTORY);
  if (made < 0) {
    struct file_path parent_path = *path;
    const char* name;
    FILE_SCOPED int parent = file_open_parent(&parent_path, &name, &job->error);
    if (parent < 0) {
      return false;
    }
    if (mkdirat(parent, name, kPrivate) < 0) {
      return errno == EEXIST ? file_refused(&job->error, ENOTDIR, "mkdir")
                             : file_failed(&job->error, "mkdir");
    }
    made = openat(parent, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (made < 0) {
      return file_failed(&job->error, "open");
    }
  }
  return file_set(made, &writing->attributes, &job->error);
}

static bool make_symlink(struct write_job* writing, int parent, const char* name,
                         const FileRequest* request) {
  struct file_job* job = &writing->job;
  char target[AGENT_PATH_SIZE];
  const ProtobufCBinaryData* from = &request->target;
  if (from->len == 0 || memchr(from->data, '\0', from->len) != NULL ||
      !text_copy(target, sizeof(target), (const char*)from->data, from->len)) {
    return file_refused(&job->error, EINVAL, "symlink");
  }
  if (!file_symlink_at(target, parent, name, &job->error)) {
    return false;
  }
  writing->attributes.flags &= ~(uint32_t)FILE_FLAG(SET_MODE);
  FILE_SCOPED int made = openat(parent, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
  return made < 0 ? file_failed(&job->error, "open")
                  : file_set(made, &writing->attributes, &job->error);
}

// Makes what the mode says in the place of what is there.
static bool replace(struct write_job* writing, struct file_path* path, const FileRequest* request) {
  struct file_job* job = &writing->job;
  if (S_ISDIR(request->mode)) {
    return make_directory(writing, path);
  }
  const char* name;
  FILE_SCOPED int parent = file_open_parent(path, &name, &job->error);
  if (parent < 0) {
    return false;
  }
  if (S_ISLNK(request->mode)) {
    return make_symlink(writing, parent, name, request);
  }
  if (!S_ISREG(request->mode)) {
    return file_refused(&job->error, ENXIO, "mknod");
  }
  writing->fd = file_create_at(parent, name, &job->error);
  return writing->fd >= 0;
}

static bool begin(struct write_job* writing, const FileRequest* request) {
  struct file_path path;
  if (!file_path_get(&path, &request->path, &writing->job.error)) {
    return false;
  }
  text_join(&writing->path, path.text, NULL);
  writing->attributes = (struct file_attributes){.flags = request->flags,
                                                 .mode = request->mode & kPermissions,
                                                 .uid = request->uid,
                                                 .gid = request->gid,
                                                 .mtime_ns = request->mtime_ns};
  return (request->flags & FILE_FLAG(REPLACE)) != 0 ? replace(writing, &path, request)
                                                    : open_file(writing, &path, request->flags);
}

static bool write_some(struct file_job* job, const FileRequest* request) {
  struct write_job* writing = of(job);
  if (request->path.len > 0 && (!complete(writing) || !begin(writing, request))) {
    return false;
  }
  if (request->data.len == 0) {
    return true;
  }
  if (writing->fd < 0) {
    return file_refused(&job->error, EBADF, "write");
  }
  for (size_t at = 0; at < request->data.len;) {
    const ssize_t count = write(writing->fd, request->data.data + at, request->data.len - at);
    if (count < 0 && errno != EINTR) {
      return file_failed(&job->error, "write");
    }
    at += count > 0 ? (size_t)count : 0;
  }
  return true;
}

static bool take(struct file_job* job, const FileRequest* request) {
  if (write_some(job, request)) {
    return true;
  }
  job->where = of(job)->path;
  return false;
}

static bool start(struct file_job* job, const FileRequest* request) {
  if (request->path.len == 0) {
    return file_refused(&job->error, EINVAL, "path");
  }
  return take(job, request);
}

static bool ended(struct file_job* job) {
  if (!complete(of(job))) {
    job->where = of(job)->path;
    return false;
  }
  file_job_finish(job);
  return true;
}

static const struct file_job_type kType = {.size = sizeof(struct write_job),
                                           .prepare = prepare,
                                           .start = start,
                                           .more = take,
                                           .ended = ended,
                                           .release = release};

void files_write(const struct call* call) { file_job_open(call, &kType); }
