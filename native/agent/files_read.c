// Files.Read: the content of a file, or of a tree.
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "container.h"
#include "files.h"
#include "files_job.h"
#include "files_walk.h"

enum { kBlockUnit = 512, kDataField = 1 };

struct read_job {
  struct file_job job;
  // The file whose content is being sent; -1 between two.
  int fd;
  // How it was announced.
  struct stat status;
  uint64_t offset;
  // What may yet be sent of it.
  uint64_t left;
  bool tree;
  bool sparse;
  // Of a tree whose top is a directory.
  struct walk* walk;
};

static struct read_job* of(struct file_job* job) { return CONTAINER_OF(job, struct read_job, job); }

static void prepare(struct file_job* job) { of(job)->fd = -1; }

static void release(struct file_job* job) {
  file_close(&of(job)->fd);
  walk_close(&of(job)->walk);
}

static void send_info(struct read_job* reading, const struct stat* status, const char* name,
                      char* target) {
  FileInfo info = EMBERVM__AGENT__V1__FILE_INFO__INIT;
  struct text copy;
  text_join(&copy, name, NULL);
  file_describe(&info, status);
  info.name = (ProtobufCBinaryData){.len = copy.length, .data = (uint8_t*)copy.data};
  if (target != NULL) {
    info.target = (ProtobufCBinaryData){.len = strlen(target), .data = (uint8_t*)target};
  }
  file_job_send_entry(&reading->job, &info);
}

// Announces a file of a tree and makes its content what is sent next.
static bool begin_file(struct read_job* reading, int fd, const char* name) {
  reading->fd = fd;
  reading->offset = 0;
  // What grows while it is read must not keep us for ever. The kernel's own files
  // say that they are empty, and are not.
  const uint64_t size = (uint64_t)reading->status.st_size;
  reading->left = size > 0 ? size : UINT64_MAX;
  send_info(reading, &reading->status, name, NULL);
  return true;
}

static bool start(struct file_job* job, const FileRequest* request) {
  struct read_job* reading = of(job);
  struct file_path path;
  if (!file_path_get(&path, &request->path, &job->error)) {
    return false;
  }
  reading->tree = (request->flags & FILE_FLAG(RECURSIVE)) != 0;
  reading->sparse = (request->flags & FILE_FLAG(SPARSE)) != 0;
  const int fd = file_open(&path, O_RDONLY | O_NONBLOCK | O_NOCTTY, &job->error);
  if (fd < 0) {
    return false;
  }
  reading->fd = fd;
  if (fstat(fd, &reading->status) < 0) {
    return file_failed(&job->error, "stat");
  }
  file_job_continue(job);
  if (S_ISDIR(reading->status.st_mode) && reading->tree) {
    reading->fd = -1;
    reading->walk = walk_open(fd, false);
    if (reading->walk == NULL) {
      return file_refused(&job->error, ENOMEM, "open");
    }
    send_info(reading, &reading->status, "", NULL);
    return true;
  }
  if (!S_ISREG(reading->status.st_mode)) {
    return file_refused(&job->error, S_ISDIR(reading->status.st_mode) ? EISDIR : ENXIO, "read");
  }
  if (reading->tree) {
    return begin_file(reading, fd, "");
  }
  reading->offset = request->offset;
  reading->left = request->length > 0 ? request->length : UINT64_MAX;
  return request->offset == 0 ||
         (request->offset <= INT64_MAX && lseek(fd, (off_t)request->offset, SEEK_SET) >= 0) ||
         file_refused(&job->error, EINVAL, "lseek");
}

// --- Content

static void end_file(struct read_job* reading) {
  struct stat now;
  const struct stat* then = &reading->status;
  const bool changed = fstat(reading->fd, &now) < 0 || now.st_size != then->st_size ||
                       now.st_mtim.tv_sec != then->st_mtim.tv_sec ||
                       now.st_mtim.tv_nsec != then->st_mtim.tv_nsec;
  file_close(&reading->fd);
  if (!reading->tree) {
    file_job_finish(&reading->job);
    return;
  }
  if (changed) {
    FileEvent event = EMBERVM__AGENT__V1__FILE_EVENT__INIT;
    event.changed = true;
    file_job_send(&reading->job, &event);
  }
  if (reading->walk == NULL && reading->job.stream.open) {
    file_job_finish(&reading->job);
  }
}

// Leaves out the zeros before the next data. False when there were none.
static bool skip_hole(struct read_job* reading) {
  const struct stat* status = &reading->status;
  if (!reading->sparse || status->st_blocks >= status->st_size / kBlockUnit) {
    return false;
  }
  off_t data = lseek(reading->fd, (off_t)reading->offset, SEEK_DATA);
  if (data < 0) {
    // Beyond the last data there is one more hole, to the end.
    data = errno == ENXIO ? lseek(reading->fd, 0, SEEK_END) : -1;
  }
  if (data < 0 || (uint64_t)data <= reading->offset) {
    return false;
  }
  uint64_t hole = (uint64_t)data - reading->offset;
  hole = hole < reading->left ? hole : reading->left;
  FileEvent event = EMBERVM__AGENT__V1__FILE_EVENT__INIT;
  event.hole = hole;
  reading->offset += hole;
  reading->left -= hole;
  file_job_send(&reading->job, &event);
  return true;
}

// Sends one chunk. False when there is no room now, or it failed.
static bool send_chunk(struct read_job* reading, bool* failed) {
  struct file_job* job = &reading->job;
  if (!file_job_has_room(job, FILE_EVENT_ROOM)) {
    return false;
  }
  if (skip_hole(reading)) {
    return true;
  }
  uint8_t* to = stream_reserve_bytes(&job->stream, AGENT_IO_CHUNK);
  if (to == NULL) {
    return false;
  }
  const size_t wanted = reading->left < AGENT_IO_CHUNK ? (size_t)reading->left : AGENT_IO_CHUNK;
  const ssize_t got = wanted == 0 ? 0 : read(reading->fd, to, wanted);
  const int error = errno;
  const size_t count = got > 0 ? (size_t)got : 0;
  stream_send_bytes(&job->stream, kDataField, to, count);
  if (got < 0) {
    *failed = true;
    return file_refused(&job->error, error, "read");
  }
  reading->offset += count;
  reading->left -= count;
  if (count == 0 || reading->left == 0) {
    end_file(reading);
  }
  return true;
}

// --- The tree

// Sends what is no directory. What has gone, or has become something else, since
// it was listed is left out.
static bool send_other(struct read_job* reading, const char* name, const struct stat* status) {
  struct file_job* job = &reading->job;
  const int directory = walk_fd(reading->walk);
  if (S_ISREG(status->st_mode)) {
    const int fd =
        openat(directory, name, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
      return errno == ENOENT || errno == ELOOP || file_failed(&job->error, "open");
    }
    if (fstat(fd, &reading->status) < 0 || !S_ISREG(reading->status.st_mode)) {
      close(fd);
      return true;
    }
    return begin_file(reading, fd, name);
  }
  char target[AGENT_PATH_SIZE];
  target[0] = '\0';
  if (S_ISLNK(status->st_mode)) {
    const ssize_t length = readlinkat(directory, name, target, sizeof(target) - 1);
    if (length < 0) {
      return errno == ENOENT || errno == EINVAL || file_failed(&job->error, "readlink");
    }
    target[length] = '\0';
  }
  // Of anything else the host decides.
  send_info(reading, status, name, target);
  return true;
}

static bool send_entry(struct read_job* reading, const char* name) {
  struct file_job* job = &reading->job;
  struct walk* walk = reading->walk;
  struct stat status;
  bool sent = true;
  if (fstatat(walk_fd(walk), name, &status, AT_SYMLINK_NOFOLLOW) < 0) {
    sent = errno == ENOENT || file_failed(&job->error, "stat");
  } else if (!S_ISDIR(status.st_mode)) {
    sent = send_other(reading, name, &status);
  } else if (walk_enter(walk, name, &job->error)) {
    send_info(reading, &status, walk->path.text + (walk->path.length - strlen(name)), NULL);
    return true;
  } else if (job->error.number == ENOENT) {
    job->error.number = 0;
    return true;
  } else {
    sent = false;
  }
  if (!sent) {
    walk_tell(walk, name, &job->where);
  }
  return sent;
}

static bool step_tree(struct read_job* reading) {
  struct file_job* job = &reading->job;
  const char* name;
  uint8_t type;
  switch (walk_next(reading->walk, &name, &type, &job->error)) {
    case WALK_FAILED:
      return false;
    case WALK_ENTRY:
      return send_entry(reading, name);
    case WALK_END_OF_DIRECTORY:
      break;
  }
  if (!walk_leave(reading->walk, &job->error)) {
    return false;
  }
  if (reading->walk->depth == 0) {
    file_job_finish(job);
    return true;
  }
  FileInfo end = EMBERVM__AGENT__V1__FILE_INFO__INIT;
  file_job_send_entry(job, &end);
  return true;
}

static bool run(struct file_job* job) {
  struct read_job* reading = of(job);
  for (int left = AGENT_FILE_SLICE; left > 0 && job->stream.open && !job->over; left--) {
    if (reading->fd >= 0) {
      bool failed = false;
      if (!send_chunk(reading, &failed)) {
        return !failed;
      }
    } else if (!file_job_has_room(job, FILE_EVENT_ROOM)) {
      return true;
    } else if (!step_tree(reading)) {
      return false;
    }
  }
  file_job_continue(job);
  return true;
}

static const struct file_job_type kType = {.size = sizeof(struct read_job),
                                           .prepare = prepare,
                                           .start = start,
                                           .run = run,
                                           .release = release};

void files_read(const struct call* call) { file_job_open(call, &kType); }
