#include "oom.h"

#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "../container.h"
#include "containers.h"
#include "files.h"
#include "messages.h"
#include "pending.h"
#include "service.h"

// Ids of containers, each once: that it ran out of memory again is no news to one who
// was not told of the first time.
static struct {
  char ids[MAX_OOM_EVENTS][CONTAINER_ID_SIZE];
  size_t first;
  size_t count;
} events;

static struct pending* waiting;

static char* event_at(size_t i) { return events.ids[(events.first + i) % MAX_OOM_EVENTS]; }

static void reply_event(struct pending* pending, char* id) {
  Grpc__OOMEvent event = GRPC__OOMEVENT__INIT;
  event.container_id = id;
  pending_reply(pending, &event.base);
}

static void tell(const char* id) {
  char copy[CONTAINER_ID_SIZE];
  memcpy(copy, id, strlen(id) + 1);
  if (waiting != NULL) {
    reply_event(waiting, copy);
    return;
  }
  for (size_t i = 0; i < events.count; i++) {
    if (strcmp(event_at(i), id) == 0) {
      return;
    }
  }
  if (events.count < MAX_OOM_EVENTS) {
    memcpy(event_at(events.count), copy, sizeof(copy));
    events.count++;
  }
}

// Whether it has happened again. Reading it is what makes the kernel wake us again: by
// the same descriptor.
static bool has_grown(struct oom_watch* oom) {
  char content[256];
  const ssize_t length = pread(oom->watch.fd, content, sizeof(content) - 1, 0);
  uint64_t kills;
  if (length < 0) {
    // The group is gone.
    loop_watch_close(&oom->watch);
    return false;
  }
  content[length] = '\0';
  if (!file_field(content, "oom_kill", &kills) || kills <= oom->kills) {
    return false;
  }
  oom->kills = kills;
  return true;
}

static void look(struct oom_watch* oom) {
  if (has_grown(oom)) {
    tell(oom->id);
  }
}

static void on_event(struct loop_watch* watch, uint32_t what) {
  (void)what;
  look(CONTAINER_OF(watch, struct oom_watch, watch));
}

void oom_watch_start(struct oom_watch* oom, int group, const char* id) {
  *oom = (struct oom_watch){.watch = {.ready = on_event, .fd = -1}, .id = id};
  oom->watch.fd = openat(group, "memory.events", O_RDONLY | O_CLOEXEC);
  if (oom->watch.fd < 0) {
    return;
  }
  // What happened in a group that was there before is no news.
  has_grown(oom);
  if (oom->watch.fd >= 0 && loop_watch_set(&oom->watch, EPOLLPRI) < 0) {
    loop_watch_close(&oom->watch);
  }
}

void oom_watch_stop(struct oom_watch* oom) {
  // One that was never started has no id.
  if (oom->id != NULL && oom->watch.fd >= 0) {
    look(oom);
    loop_watch_close(&oom->watch);
  }
}

void oom_get_event(const struct call* call) {
  if (call_decode(call, &grpc__get_oomevent_request__descriptor) == NULL) {
    return;
  }
  if (!service_has_sandbox()) {
    call_fail(call, TTRPC_FAILED_PRECONDITION, "no sandbox yet: call CreateSandbox first");
    return;
  }
  struct pending* pending = pending_open(call, &waiting, NULL);
  if (pending == NULL || events.count == 0) {
    return;
  }
  char* id = event_at(0);
  events.first = (events.first + 1) % MAX_OOM_EVENTS;
  events.count--;
  reply_event(pending, id);
}

void oom_reset(void) {
  for (struct container* container = containers; container != NULL; container = container->next) {
    if (container->oom.id != NULL) {
      loop_watch_close(&container->oom.watch);
    }
  }
  events.first = events.count = 0;
  while (waiting != NULL) {
    pending_fail(waiting, TTRPC_UNAVAILABLE, "the sandbox is destroyed");
  }
}
