#include "loop.h"

#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "log.h"

enum { kBatch = 32 };

static struct {
  int epoll_fd;
  struct loop_timer* timers;
  struct loop_task* tasks;
  struct loop_task** tasks_tail;
  struct loop_garbage* garbage;
} loop = {.epoll_fd = -1, .tasks_tail = &loop.tasks};

int loop_start(void) {
  loop.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  return loop.epoll_fd < 0 ? -1 : 0;
}

static void collect_garbage(void) {
  while (loop.garbage != NULL) {
    struct loop_garbage* garbage = loop.garbage;
    loop.garbage = garbage->next;
    garbage->destroy(garbage);
  }
}

void loop_stop(void) {
  collect_garbage();
  loop.timers = NULL;
  loop.tasks = NULL;
  loop.tasks_tail = &loop.tasks;
  if (loop.epoll_fd >= 0) {
    close(loop.epoll_fd);
    loop.epoll_fd = -1;
  }
}

int loop_watch_set(struct loop_watch* watch, uint32_t events) {
  if (watch->fd < 0 || events == watch->events) {
    return 0;
  }
  struct epoll_event event = {.events = events, .data = {.ptr = watch}};
  int operation = EPOLL_CTL_MOD;
  if (watch->events == 0) {
    operation = EPOLL_CTL_ADD;
  } else if (events == 0) {
    // Not MOD to 0: hang-ups are reported always, and a paused pipe whose writer
    // is gone would keep the loop spinning.
    operation = EPOLL_CTL_DEL;
  }
  if (epoll_ctl(loop.epoll_fd, operation, watch->fd, &event) < 0) {
    return -1;
  }
  watch->events = events;
  return 0;
}

void loop_watch_close(struct loop_watch* watch) {
  if (watch->fd < 0) {
    return;
  }
  if (watch->events != 0) {
    // close() would do it, but not while a child between clone and execve shares
    // the file.
    loop_watch_set(watch, 0);
  }
  close(watch->fd);
  watch->fd = -1;
  watch->events = 0;
}

uint64_t loop_now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

void loop_timer_stop(struct loop_timer* timer) {
  if (!timer->armed) {
    return;
  }
  for (struct loop_timer** at = &loop.timers; *at != NULL; at = &(*at)->next) {
    if (*at == timer) {
      *at = timer->next;
      break;
    }
  }
  timer->armed = false;
}

void loop_timer_start(struct loop_timer* timer, uint64_t delay_ms) {
  loop_timer_stop(timer);
  const uint64_t now = loop_now_ms();
  timer->due_ms = delay_ms > UINT64_MAX - now ? UINT64_MAX : now + delay_ms;
  struct loop_timer** at = &loop.timers;
  while (*at != NULL && (*at)->due_ms <= timer->due_ms) {
    at = &(*at)->next;
  }
  timer->next = *at;
  *at = timer;
  timer->armed = true;
}

void loop_task_queue(struct loop_task* task) {
  if (task->queued) {
    return;
  }
  task->queued = true;
  task->next = NULL;
  *loop.tasks_tail = task;
  loop.tasks_tail = &task->next;
}

void loop_discard(struct loop_garbage* garbage) {
  garbage->next = loop.garbage;
  loop.garbage = garbage;
}

static void run_tasks(void) {
  while (loop.tasks != NULL) {
    struct loop_task* task = loop.tasks;
    loop.tasks = task->next;
    if (loop.tasks == NULL) {
      loop.tasks_tail = &loop.tasks;
    }
    task->queued = false;
    task->run(task);
  }
}

static int wait_ms(int max_wait_ms) {
  if (loop.timers == NULL) {
    return max_wait_ms;
  }
  const uint64_t now = loop_now_ms();
  const uint64_t due = loop.timers->due_ms;
  // The clock is cut to milliseconds: one more, and the timer is due on waking.
  uint64_t wait = due <= now ? 0 : due - now + 1;
  if (wait > INT_MAX) {
    wait = INT_MAX;
  }
  return max_wait_ms >= 0 && (uint64_t)max_wait_ms < wait ? max_wait_ms : (int)wait;
}

static void run_timers(void) {
  if (loop.timers == NULL) {
    return;
  }
  const uint64_t now = loop_now_ms();
  while (loop.timers != NULL && loop.timers->due_ms <= now) {
    struct loop_timer* timer = loop.timers;
    loop.timers = timer->next;
    timer->armed = false;
    timer->fire(timer);
  }
}

void loop_run_once(int max_wait_ms) {
  struct epoll_event events[kBatch];
  // What was queued before the first wait must not wait for it.
  run_tasks();
  const int count = epoll_wait(loop.epoll_fd, events, kBatch, wait_ms(max_wait_ms));
  if (count < 0 && errno != EINTR) {
    log_error("epoll_wait", errno);
  }
  for (int i = 0; i < count; i++) {
    struct loop_watch* watch = events[i].data.ptr;
    // Closed or paused by an earlier event of this batch.
    if (watch->fd >= 0 && watch->events != 0) {
      watch->ready(watch, events[i].events);
    }
  }
  run_timers();
  run_tasks();
  collect_garbage();
}
