// Files.List: the entries of one directory, in batches.
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "container.h"
#include "files.h"
#include "files_job.h"
#include "files_walk.h"

enum { kBatch = 64, kBatchRoom = 24 * 1024 };

struct list_job {
  struct file_job job;
  struct walk* walk;
};

static void prepare(struct file_job* job) { (void)job; }

static void release(struct file_job* job) {
  walk_close(&CONTAINER_OF(job, struct list_job, job)->walk);
}

static bool start(struct file_job* job, const FileRequest* request) {
  struct list_job* list = CONTAINER_OF(job, struct list_job, job);
  struct file_path path;
  if (!file_path_get(&path, &request->path, &job->error)) {
    return false;
  }
  const int fd = file_open(&path, O_RDONLY | O_DIRECTORY, &job->error);
  if (fd < 0) {
    return false;
  }
  list->walk = walk_open(fd, false);
  if (list->walk == NULL) {
    return file_refused(&job->error, ENOMEM, "open");
  }
  file_job_continue(job);
  return true;
}

static void send_batch(struct file_job* job, FileInfo* infos, size_t count) {
  FileInfo* entries[kBatch];
  for (size_t i = 0; i < count; i++) {
    entries[i] = &infos[i];
  }
  FileEvent event = EMBERVM__AGENT__V1__FILE_EVENT__INIT;
  event.n_entries = count;
  event.entries = entries;
  file_job_send(job, &event);
}

static bool run(struct file_job* job) {
  struct walk* walk = CONTAINER_OF(job, struct list_job, job)->walk;
  if (!file_job_has_room(job, kBatchRoom)) {
    return true;
  }
  // What is gathered points into the buffer of the walk, so one batch comes from
  // one filling of it. The infos are static for their size.
  static FileInfo infos[kBatch];
  size_t count = 0;
  bool ended = false;
  do {
    const char* name;
    uint8_t type;
    const enum walk_step step = walk_next(walk, &name, &type, &job->error);
    if (step == WALK_FAILED) {
      return false;
    }
    ended = step == WALK_END_OF_DIRECTORY;
    struct stat status;
    if (!ended && fstatat(walk_fd(walk), name, &status, AT_SYMLINK_NOFOLLOW) == 0) {
      FileInfo* info = &infos[count++];
      embervm__agent__v1__file_info__init(info);
      file_describe(info, &status);
      info->name.len = strlen(name);
      info->name.data = walk->buffer + (name - (const char*)walk->buffer);
    }
    // Else it has gone between the two calls.
  } while (!ended && count < kBatch && walk_has_next(walk));
  if (count > 0) {
    send_batch(job, infos, count);
  }
  if (!job->stream.open) {
    return true;
  }
  if (ended) {
    file_job_finish(job);
  } else {
    file_job_continue(job);
  }
  return true;
}

static const struct file_job_type kType = {.size = sizeof(struct list_job),
                                           .prepare = prepare,
                                           .start = start,
                                           .run = run,
                                           .release = release};

void files_list(const struct call* call) { file_job_open(call, &kType); }
