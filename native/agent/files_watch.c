// Files.Watch: changes of a file or directory, or of a tree, by inotify(7). The
// kernel's queue is the only one: it is read while the connection has room, and
// what it loses is reported.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdalign.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "container.h"
#include "files.h"
#include "files_job.h"
#include "files_walk.h"
#include "inroot.h"

enum { kBuckets = 64 };

static const uint32_t kInteresting = IN_CREATE | IN_MODIFY | IN_ATTRIB | IN_DELETE | IN_MOVED_FROM |
                                     IN_MOVED_TO | IN_DELETE_SELF | IN_MOVE_SELF;

// A directory of the tree, or what is watched alone.
struct place {
  struct place* next;
  int descriptor;
  // Below the top.
  char path[];
};

struct watch_job {
  struct file_job job;
  struct loop_watch inotify;
  // What is watched, open as a directory; -1 for a file.
  int top;
  bool recursive;
  struct place* places[kBuckets];
  size_t count;
  // Directories that are not watched yet: those below this path. Changes wait.
  struct walk* walk;
  struct file_path walk_path;
  bool ready;
  // Events that were read: from `at` on they are still to be told.
  size_t at;
  size_t end;
  alignas(struct inotify_event) uint8_t buffer[4096];
};

static struct watch_job* of(struct file_job* job) {
  return CONTAINER_OF(job, struct watch_job, job);
}

static void on_events(struct loop_watch* watch, uint32_t events) {
  (void)events;
  struct watch_job* watching = CONTAINER_OF(watch, struct watch_job, inotify);
  // The job takes them; until then nothing more is asked for.
  loop_watch_set(watch, 0);
  file_job_continue(&watching->job);
}

static void prepare(struct file_job* job) {
  struct watch_job* watching = of(job);
  watching->inotify = (struct loop_watch){.ready = on_events, .fd = -1};
  watching->top = -1;
}

static void release(struct file_job* job) {
  struct watch_job* watching = of(job);
  loop_watch_close(&watching->inotify);
  file_close(&watching->top);
  walk_close(&watching->walk);
  for (size_t i = 0; i < kBuckets; i++) {
    while (watching->places[i] != NULL) {
      struct place* place = watching->places[i];
      watching->places[i] = place->next;
      free(place);
    }
  }
}

// --- Places

static struct place** bucket(struct watch_job* watching, int descriptor) {
  return &watching->places[(unsigned)descriptor % kBuckets];
}

static struct place* find(struct watch_job* watching, int descriptor) {
  struct place* place = *bucket(watching, descriptor);
  while (place != NULL && place->descriptor != descriptor) {
    place = place->next;
  }
  return place;
}

static void forget(struct watch_job* watching, struct place* place) {
  for (struct place** at = bucket(watching, place->descriptor); *at != NULL; at = &(*at)->next) {
    if (*at == place) {
      *at = place->next;
      break;
    }
  }
  watching->count--;
  free(place);
}

// Watches what `fd` is, under the path. `name` NULL: a directory; else the entry
// of that name in it.
static bool add(struct watch_job* watching, int fd, const char* name, const char* path) {
  struct file_job* job = &watching->job;
  if (watching->count >= AGENT_MAX_WATCHES) {
    return file_refused(&job->error, ENOSPC, "inotify_add_watch");
  }
  // inotify knows paths only; "." of a directory that is open cannot be led astray.
  if (fchdir(fd) < 0) {
    return file_failed(&job->error, "chdir");
  }
  const uint32_t mask = kInteresting | (name == NULL ? IN_ONLYDIR : IN_DONT_FOLLOW);
  const int descriptor = inotify_add_watch(watching->inotify.fd, name == NULL ? "." : name, mask);
  const int error = errno;
  if (chdir("/") < 0 || descriptor < 0) {
    return file_refused(&job->error, error, "inotify_add_watch");
  }
  struct place* known = find(watching, descriptor);
  if (known != NULL) {
    // It was moved here.
    forget(watching, known);
  }
  const size_t size = strlen(path) + 1;
  struct place* place = malloc(sizeof(*place) + size);
  if (place == NULL) {
    return file_refused(&job->error, ENOMEM, "inotify_add_watch");
  }
  place->descriptor = descriptor;
  memcpy(place->path, path, size);
  struct place** head = bucket(watching, descriptor);
  place->next = *head;
  *head = place;
  watching->count++;
  return true;
}

static bool is_below(const char* path, const char* directory) {
  const size_t length = strlen(directory);
  return strncmp(path, directory, length) == 0 && (path[length] == '/' || path[length] == '\0');
}

// A directory has moved away: what is in it changes elsewhere now.
static void drop_tree(struct watch_job* watching, const char* directory) {
  for (size_t i = 0; i < kBuckets; i++) {
    for (struct place *place = watching->places[i], *next; place != NULL; place = next) {
      next = place->next;
      if (is_below(place->path, directory)) {
        inotify_rm_watch(watching->inotify.fd, place->descriptor);
        forget(watching, place);
      }
    }
  }
}

// --- Telling

static void tell(struct watch_job* watching, const char* path, uint32_t change, bool directory) {
  FileInfo info = EMBERVM__AGENT__V1__FILE_INFO__INIT;
  char copy[AGENT_PATH_SIZE];
  const size_t length = strnlen(path, sizeof(copy));
  memcpy(copy, path, length);
  info.name = (ProtobufCBinaryData){.len = length, .data = (uint8_t*)copy};
  info.change = change;
  info.mode = directory ? S_IFDIR : 0;
  file_job_send_entry(&watching->job, &info);
}

// The path of an entry below the top. False when it is too long to be one.
static bool join(struct file_path* path, const char* directory, const char* name) {
  const size_t length = strlen(directory);
  const size_t slash = length > 0 && *name != '\0' ? 1 : 0;
  const size_t rest = strlen(name);
  if (length + slash + rest >= sizeof(path->text)) {
    return false;
  }
  memcpy(path->text, directory, length);
  path->text[length] = '/';
  memcpy(path->text + length + slash, name, rest + 1);
  path->length = length + slash + rest;
  return true;
}

static bool is_gone(int error) { return error == ENOENT || error == ENOTDIR || error == ELOOP; }

// Watches a directory, and begins to watch those below it.
static bool add_tree(struct watch_job* watching, const struct file_path* path) {
  struct file_job* job = &watching->job;
  const char* at = path->length > 0 ? path->text : ".";
  const int fd = open_beneath(watching->top, at, O_RDONLY | O_DIRECTORY);
  if (fd < 0) {
    return is_gone(errno) || file_failed(&job->error, "open");
  }
  if (!add(watching, fd, NULL, path->text)) {
    close(fd);
    return false;
  }
  watching->walk_path = *path;
  watching->walk = walk_open(fd, false);
  return watching->walk != NULL || file_refused(&job->error, ENOMEM, "open");
}

static bool add_entry(struct watch_job* watching, const char* name, uint8_t type) {
  struct file_job* job = &watching->job;
  struct file_path below;
  struct file_path path;
  if (!join(&below, watching->walk->path.text, name) ||
      !join(&path, watching->walk_path.text, below.text)) {
    return true;
  }
  if (watching->ready) {
    // What is found in a new directory may have come before its watch, so it is
    // told as created: rather twice than not at all.
    tell(watching, path.text, FILE_CHANGE(CREATED), type == DT_DIR);
  }
  if (type != DT_DIR || !job->stream.open) {
    return true;
  }
  if (walk_enter(watching->walk, name, &job->error)) {
    return add(watching, walk_fd(watching->walk), NULL, path.text);
  }
  if (!is_gone(job->error.number)) {
    return false;
  }
  job->error.number = 0;
  return true;
}

// One entry of the directories that are not watched yet.
static bool step_walk(struct watch_job* watching) {
  struct file_error* error = &watching->job.error;
  const char* name;
  uint8_t type;
  switch (walk_next(watching->walk, &name, &type, error)) {
    case WALK_ENTRY:
      return add_entry(watching, name, type);
    case WALK_FAILED:
      return false;
    case WALK_END_OF_DIRECTORY:
      break;
  }
  if (!walk_leave(watching->walk, error)) {
    return false;
  }
  if (watching->walk->depth == 0) {
    walk_close(&watching->walk);
  }
  return true;
}

static uint32_t to_change(uint32_t mask) {
  if ((mask & (IN_CREATE | IN_MOVED_TO)) != 0) {
    return FILE_CHANGE(CREATED);
  }
  if ((mask & (IN_DELETE | IN_MOVED_FROM | IN_DELETE_SELF | IN_MOVE_SELF)) != 0) {
    return FILE_CHANGE(REMOVED);
  }
  if ((mask & IN_MODIFY) != 0) {
    return FILE_CHANGE(MODIFIED);
  }
  return (mask & IN_ATTRIB) != 0 ? FILE_CHANGE(ATTRIBUTES) : FILE_CHANGE(NONE);
}

// False when watching has failed.
static bool handle(struct watch_job* watching, const struct inotify_event* event) {
  if ((event->mask & IN_Q_OVERFLOW) != 0) {
    tell(watching, "", FILE_CHANGE(OVERFLOW), false);
    return true;
  }
  struct place* place = find(watching, event->wd);
  if (place == NULL) {
    // What was queued before its watch was taken away.
    return true;
  }
  const bool top = place->path[0] == '\0';
  if ((event->mask & IN_IGNORED) != 0) {
    forget(watching, place);
    return true;
  }
  const char* name = event->len > 0 ? event->name : "";
  const uint32_t change = to_change(event->mask);
  // Of a directory below the top, the one above has told.
  const bool known = event->len == 0 && !top;
  struct file_path path;
  if (change == FILE_CHANGE(NONE) || known || !join(&path, place->path, name)) {
    return true;
  }
  const bool directory = (event->mask & IN_ISDIR) != 0;
  tell(watching, path.text, change, directory);
  if (!directory || !watching->recursive || event->len == 0 || !watching->job.stream.open) {
    return true;
  }
  if ((event->mask & IN_MOVED_FROM) != 0) {
    drop_tree(watching, path.text);
  } else if (change == FILE_CHANGE(CREATED)) {
    return add_tree(watching, &path);
  }
  return true;
}

// --- The job

// Reads more events. False when there are none, or it failed.
static bool read_events(struct watch_job* watching, bool* failed) {
  struct file_error* error = &watching->job.error;
  const ssize_t got = read(watching->inotify.fd, watching->buffer, sizeof(watching->buffer));
  if (got > 0) {
    watching->at = 0;
    watching->end = (size_t)got;
    return true;
  }
  *failed = (got < 0 && errno != EAGAIN && !file_failed(error, "read")) ||
            (loop_watch_set(&watching->inotify, EPOLLIN) < 0 && !file_failed(error, "epoll_ctl"));
  return false;
}

static bool run(struct file_job* job) {
  struct watch_job* watching = of(job);
  for (int left = AGENT_FILE_SLICE; left > 0 && job->stream.open; left--) {
    if (!file_job_has_room(job, FILE_EVENT_ROOM)) {
      return true;
    }
    if (watching->walk != NULL) {
      if (!step_walk(watching)) {
        return false;
      }
      continue;
    }
    if (!watching->ready) {
      watching->ready = true;
      const FileEvent ready = EMBERVM__AGENT__V1__FILE_EVENT__INIT;
      file_job_send(job, &ready);
      continue;
    }
    bool failed = false;
    if (watching->at == watching->end && !read_events(watching, &failed)) {
      return !failed;
    }
    const struct inotify_event* event = (const void*)(watching->buffer + watching->at);
    watching->at += sizeof(*event) + event->len;
    if (!handle(watching, event)) {
      return false;
    }
  }
  file_job_continue(job);
  return true;
}

static bool start(struct file_job* job, const FileRequest* request) {
  struct watch_job* watching = of(job);
  struct file_path path;
  if (!file_path_get(&path, &request->path, &job->error)) {
    return false;
  }
  watching->recursive = (request->flags & FILE_FLAG(RECURSIVE)) != 0;
  watching->inotify.fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
  if (watching->inotify.fd < 0) {
    return file_failed(&job->error, "inotify_init");
  }
  watching->top = file_open(&path, O_RDONLY | O_DIRECTORY, &job->error);
  if (watching->top >= 0) {
    const struct file_path top = {.length = 0};
    if (!(watching->recursive ? add_tree(watching, &top)
                              : add(watching, watching->top, NULL, ""))) {
      return false;
    }
  } else {
    const char* name;
    if (job->error.number != ENOTDIR) {
      return false;
    }
    FILE_SCOPED int parent = file_open_parent(&path, &name, &job->error);
    if (parent < 0 || !add(watching, parent, name, "")) {
      return false;
    }
  }
  job->error.number = 0;
  file_job_continue(job);
  return true;
}

// A host that sends no more still listens.
static const struct file_job_type kType = {.size = sizeof(struct watch_job),
                                           .prepare = prepare,
                                           .start = start,
                                           .run = run,
                                           .release = release};

void files_watch(const struct call* call) { file_job_open(call, &kType); }
