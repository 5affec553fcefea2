// Files.RemoveTree.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "container.h"
#include "files.h"
#include "files_job.h"
#include "files_walk.h"

struct remove_job {
  struct file_job job;
  // The directory that holds what is removed.
  int parent;
  char name[AGENT_FILE_NAME_SIZE];
  struct walk* walk;
};

static void prepare(struct file_job* job) {
  CONTAINER_OF(job, struct remove_job, job)->parent = -1;
}

static void release(struct file_job* job) {
  struct remove_job* removal = CONTAINER_OF(job, struct remove_job, job);
  file_close(&removal->parent);
  walk_close(&removal->walk);
}

static bool start(struct file_job* job, const FileRequest* request) {
  struct remove_job* removal = CONTAINER_OF(job, struct remove_job, job);
  struct file_path path;
  const char* name;
  if (!file_path_get(&path, &request->path, &job->error)) {
    return false;
  }
  removal->parent = file_open_parent(&path, &name, &job->error);
  if (removal->parent < 0) {
    return false;
  }
  if (!text_copy(removal->name, sizeof(removal->name), name, strlen(name))) {
    return file_refused(&job->error, ENAMETOOLONG, "unlink");
  }
  if (unlinkat(removal->parent, removal->name, 0) == 0) {
    file_job_finish(job);
    return true;
  }
  if (errno != EISDIR) {
    return file_failed(&job->error, "unlink");
  }
  const int fd =
      openat(removal->parent, removal->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) {
    return file_failed(&job->error, "open");
  }
  removal->walk = walk_open(fd, true);
  if (removal->walk == NULL) {
    return file_refused(&job->error, ENOMEM, "open");
  }
  file_job_continue(job);
  return true;
}

// Removes an entry, or goes into it. What has gone by itself is fine.
static bool remove_entry(struct remove_job* removal, const char* name, uint8_t type) {
  struct file_job* job = &removal->job;
  struct walk* walk = removal->walk;
  if (type != DT_DIR) {
    if (unlinkat(walk_fd(walk), name, 0) == 0 || errno == ENOENT) {
      walk_removed(walk);
      return true;
    }
    if (errno != EISDIR) {
      walk_tell(walk, name, &job->where);
      return file_failed(&job->error, "unlink");
    }
  }
  if (walk_enter(walk, name, &job->error)) {
    return true;
  }
  if (job->error.number == ENOENT) {
    job->error.number = 0;
    return true;
  }
  walk_tell(walk, name, &job->where);
  return false;
}

// Removes the directory that is empty now.
static bool remove_directory(struct remove_job* removal) {
  struct file_job* job = &removal->job;
  struct walk* walk = removal->walk;
  if (!walk_leave(walk, &job->error)) {
    return false;
  }
  const bool top = walk->depth == 0;
  const int parent = top ? removal->parent : walk_fd(walk);
  const char* name = top ? removal->name : walk->left;
  if (unlinkat(parent, name, AT_REMOVEDIR) == 0 || errno == ENOENT) {
    return true;
  }
  if (!top) {
    walk_tell(walk, name, &job->where);
  }
  return file_failed(&job->error, "rmdir");
}

static bool run(struct file_job* job) {
  struct remove_job* removal = CONTAINER_OF(job, struct remove_job, job);
  for (int left = AGENT_FILE_SLICE; left > 0; left--) {
    const char* name;
    uint8_t type;
    const enum walk_step step = walk_next(removal->walk, &name, &type, &job->error);
    if (step == WALK_FAILED || (step == WALK_ENTRY && !remove_entry(removal, name, type)) ||
        (step == WALK_END_OF_DIRECTORY && !remove_directory(removal))) {
      return false;
    }
    if (removal->walk->depth == 0) {
      file_job_finish(job);
      return true;
    }
  }
  file_job_continue(job);
  return true;
}

static const struct file_job_type kType = {.size = sizeof(struct remove_job),
                                           .prepare = prepare,
                                           .start = start,
                                           .run = run,
                                           .release = release};

void files_remove_tree(const struct call* call) { file_job_open(call, &kType); }
