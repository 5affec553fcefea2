// Files.Copy: a file or a tree to another place in the guest, with its modes,
// owners, times and links. A file with several names becomes several files.
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "buffer.h"
#include "container.h"
#include "files.h"
#include "files_job.h"
#include "files_walk.h"
#include "inroot.h"

enum { kPrivate = 0700, kBlockUnit = 512 };

struct copy_job {
  struct file_job job;
  // The file being copied; -1 between two.
  int in;
  int out;
  struct stat status;
  uint64_t left;
  // Of a tree: its copy, and the directory in it that the walk is at.
  struct walk* walk;
  int top;
  int directory;
  struct stat top_status;
  // It was there before: it keeps its attributes.
  bool top_existed;
};

static struct copy_job* of(struct file_job* job) { return CONTAINER_OF(job, struct copy_job, job); }

static void prepare(struct file_job* job) {
  struct copy_job* copy = of(job);
  copy->in = copy->out = copy->top = copy->directory = -1;
}

static void release(struct file_job* job) {
  struct copy_job* copy = of(job);
  file_close(&copy->in);
  file_close(&copy->out);
  file_close(&copy->top);
  file_close(&copy->directory);
  walk_close(&copy->walk);
}

static bool copy_attributes(int fd, const struct stat* from, struct file_error* error) {
  FileInfo info;
  file_describe(&info, from);
  const uint32_t mode = S_ISLNK(from->st_mode) ? 0 : FILE_FLAG(SET_MODE);
  const struct file_attributes attributes = {
      .flags = mode | FILE_FLAG(SET_OWNER) | FILE_FLAG(SET_TIME),
      .mode = info.mode,
      .uid = info.uid,
      .gid = info.gid,
      .mtime_ns = info.mtime_ns};
  return file_set(fd, &attributes, error);
}

static bool same(const struct stat* one, const struct stat* other) {
  return one->st_dev == other->st_dev && one->st_ino == other->st_ino;
}

static bool begin_file(struct copy_job* copy, int directory, const char* name) {
  // The kernel's own files say that they are empty, and are not.
  copy->left = copy->status.st_size > 0 ? (uint64_t)copy->status.st_size : UINT64_MAX;
  copy->out = file_create_at(directory, name, &copy->job.error);
  return copy->out >= 0;
}

// Opens or makes the directory that a tree is copied to.
static bool begin_tree(struct copy_job* copy, int parent, const char* name) {
  struct file_job* job = &copy->job;
  if (mkdirat(parent, name, kPrivate) < 0) {
    copy->top_existed = true;
    if (errno != EEXIST) {
      return file_failed(&job->error, "mkdir");
    }
  }
  copy->top = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (copy->top < 0 || fstat(copy->top, &copy->top_status) < 0) {
    return file_failed(&job->error, "open");
  }
  if (same(&copy->top_status, &copy->status)) {
    return file_refused(&job->error, EINVAL, "copy");
  }
  copy->directory = fcntl(copy->top, F_DUPFD_CLOEXEC, 0);
  copy->walk = walk_open(copy->in, false);
  copy->in = -1;
  return (copy->walk != NULL && copy->directory >= 0) || file_refused(&job->error, ENOMEM, "open");
}

static bool start(struct file_job* job, const FileRequest* request) {
  struct copy_job* copy = of(job);
  struct file_path from;
  struct file_path to;
  const char* name;
  if (!file_path_get(&from, &request->path, &job->error) ||
      !file_path_get(&to, &request->target, &job->error)) {
    return false;
  }
  copy->in = file_open(&from, O_RDONLY | O_NONBLOCK | O_NOCTTY, &job->error);
  if (copy->in < 0) {
    return false;
  }
  if (fstat(copy->in, &copy->status) < 0) {
    return file_failed(&job->error, "stat");
  }
  const bool tree = S_ISDIR(copy->status.st_mode);
  if (tree && (request->flags & FILE_FLAG(RECURSIVE)) == 0) {
    return file_refused(&job->error, EISDIR, "read");
  }
  if (!tree && !S_ISREG(copy->status.st_mode)) {
    return file_refused(&job->error, ENXIO, "read");
  }
  FILE_SCOPED int parent = file_open_parent(&to, &name, &job->error);
  if (parent < 0) {
    return false;
  }
  struct stat there;
  if (fstatat(parent, name, &there, AT_SYMLINK_NOFOLLOW) == 0 && same(&there, &copy->status)) {
    return file_refused(&job->error, EINVAL, "copy");
  }
  file_job_continue(job);
  return tree ? begin_tree(copy, parent, name) : begin_file(copy, parent, name);
}

// --- Content

static bool end_file(struct copy_job* copy) {
  struct file_job* job = &copy->job;
  const off_t size = lseek(copy->out, 0, SEEK_CUR);
  // A hole at the end was only skipped.
  const bool set =
      (size < 0 || ftruncate(copy->out, size) == 0) || file_failed(&job->error, "ftruncate");
  const bool complete = set && copy_attributes(copy->out, &copy->status, &job->error);
  file_close(&copy->in);
  const int closed = close(copy->out);
  copy->out = -1;
  if (!complete || (closed < 0 && !file_failed(&job->error, "close"))) {
    return false;
  }
  if (copy->walk == NULL) {
    file_job_finish(job);
  }
  return true;
}

// Leaves a hole where the original has one. False when there is none here.
static bool skip_hole(struct copy_job* copy) {
  if (copy->status.st_blocks >= copy->status.st_size / kBlockUnit) {
    return false;
  }
  const off_t here = lseek(copy->in, 0, SEEK_CUR);
  off_t data = here < 0 ? -1 : lseek(copy->in, here, SEEK_DATA);
  if (data < 0) {
    data = here >= 0 && errno == ENXIO ? here + (off_t)copy->left : -1;
  }
  if (data <= here) {
    return false;
  }
  const uint64_t hole = (uint64_t)(data - here) < copy->left ? (uint64_t)(data - here) : copy->left;
  copy->left -= hole;
  return lseek(copy->in, here + (off_t)hole, SEEK_SET) >= 0 &&
         lseek(copy->out, (off_t)hole, SEEK_CUR) >= 0;
}

static bool copy_chunk(struct copy_job* copy) {
  struct file_job* job = &copy->job;
  if (copy->left > 0 && skip_hole(copy)) {
    return copy->left > 0 || end_file(copy);
  }
  struct buffer buffer = {0};
  uint8_t* bytes = buffer_reserve(&buffer, AGENT_IO_CHUNK);
  if (bytes == NULL) {
    return file_refused(&job->error, ENOMEM, "read");
  }
  const size_t wanted = copy->left < AGENT_IO_CHUNK ? (size_t)copy->left : AGENT_IO_CHUNK;
  const ssize_t got = read(copy->in, bytes, wanted);
  bool written = got >= 0 || file_failed(&job->error, "read");
  for (ssize_t at = 0; written && at < got;) {
    const ssize_t count = write(copy->out, bytes + at, (size_t)(got - at));
    written = count >= 0 || file_failed(&job->error, "write");
    at += count;
  }
  buffer_release(&buffer);
  if (!written) {
    return false;
  }
  copy->left -= (uint64_t)got;
  return (got > 0 && copy->left > 0) || end_file(copy);
}

// --- The tree

static bool copy_symlink(struct copy_job* copy, const char* name, const struct stat* status) {
  struct file_job* job = &copy->job;
  char target[AGENT_PATH_SIZE];
  const ssize_t length = readlinkat(walk_fd(copy->walk), name, target, sizeof(target) - 1);
  if (length < 0) {
    return errno == ENOENT || file_failed(&job->error, "readlink");
  }
  target[length] = '\0';
  if (!file_symlink_at(target, copy->directory, name, &job->error)) {
    return false;
  }
  FILE_SCOPED int made = openat(copy->directory, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
  return made < 0 ? file_failed(&job->error, "open") : copy_attributes(made, status, &job->error);
}

static bool copy_file(struct copy_job* copy, const char* name) {
  struct file_job* job = &copy->job;
  copy->in =
      openat(walk_fd(copy->walk), name, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_NOFOLLOW | O_CLOEXEC);
  if (copy->in < 0) {
    return errno == ENOENT || file_failed(&job->error, "open");
  }
  if (fstat(copy->in, &copy->status) < 0) {
    return file_failed(&job->error, "stat");
  }
  return S_ISREG(copy->status.st_mode) ? begin_file(copy, copy->directory, name)
                                       : file_refused(&job->error, ENXIO, "read");
}

static bool enter(struct copy_job* copy, const char* name, const struct stat* status) {
  struct file_job* job = &copy->job;
  if (same(status, &copy->top_status)) {
    // The copy lies inside of what is copied: it would never end.
    return file_refused(&job->error, EINVAL, "copy");
  }
  if (mkdirat(copy->directory, name, kPrivate) < 0 && errno != EEXIST) {
    return file_failed(&job->error, "mkdir");
  }
  const int made = openat(copy->directory, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (made < 0) {
    return file_failed(&job->error, "open");
  }
  file_close(&copy->directory);
  copy->directory = made;
  return walk_enter(copy->walk, name, &job->error);
}

static bool copy_entry(struct copy_job* copy, const char* name) {
  struct file_job* job = &copy->job;
  struct stat status;
  bool copied;
  if (fstatat(walk_fd(copy->walk), name, &status, AT_SYMLINK_NOFOLLOW) < 0) {
    copied = errno == ENOENT || file_failed(&job->error, "stat");
  } else if (S_ISDIR(status.st_mode)) {
    copied = enter(copy, name, &status);
    if (copied) {
      return true;
    }
  } else if (S_ISREG(status.st_mode)) {
    copied = copy_file(copy, name);
  } else if (S_ISLNK(status.st_mode)) {
    copied = copy_symlink(copy, name, &status);
  } else {
    copied = file_refused(&job->error, ENXIO, "read");
  }
  if (!copied) {
    walk_tell(copy->walk, name, &job->where);
  }
  return copied;
}

static bool leave(struct copy_job* copy) {
  struct file_job* job = &copy->job;
  struct stat status;
  // Last, because what is made inside changes the time.
  if (fstat(walk_fd(copy->walk), &status) < 0) {
    return file_failed(&job->error, "stat");
  }
  const bool keep = copy->walk->depth == 1 && copy->top_existed;
  if ((!keep && !copy_attributes(copy->directory, &status, &job->error)) ||
      !walk_leave(copy->walk, &job->error)) {
    return false;
  }
  if (copy->walk->depth == 0) {
    file_job_finish(job);
    return true;
  }
  file_close(&copy->directory);
  const char* path = copy->walk->path.length > 0 ? copy->walk->path.text : ".";
  copy->directory = open_beneath(copy->top, path, O_RDONLY | O_DIRECTORY);
  return copy->directory >= 0 || file_failed(&job->error, "open");
}

static bool step_tree(struct copy_job* copy) {
  const char* name;
  uint8_t type;
  switch (walk_next(copy->walk, &name, &type, &copy->job.error)) {
    case WALK_ENTRY:
      return copy_entry(copy, name);
    case WALK_END_OF_DIRECTORY:
      return leave(copy);
    case WALK_FAILED:
      break;
  }
  return false;
}

static bool run(struct file_job* job) {
  struct copy_job* copy = of(job);
  // A chunk takes as long as many entries.
  for (int left = AGENT_FILE_SLICE; left > 0 && !job->over;) {
    left -= copy->in >= 0 ? AGENT_FILE_SLICE / 4 : 1;
    if (!(copy->in >= 0 ? copy_chunk(copy) : step_tree(copy))) {
      return false;
    }
  }
  file_job_continue(job);
  return true;
}

static const struct file_job_type kType = {.size = sizeof(struct copy_job),
                                           .prepare = prepare,
                                           .start = start,
                                           .run = run,
                                           .release = release};

void files_copy(const struct call* call) { file_job_open(call, &kType); }
