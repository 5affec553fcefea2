// The event loop: one thread, one epoll descriptor. Handlers never block; what
// they free is kept until the batch of events has been handled, because a later
// event of the same batch may still name it.
#ifndef EMBERVM_AGENT_LOOP_H_
#define EMBERVM_AGENT_LOOP_H_

#include <stdbool.h>
#include <stdint.h>

// A descriptor and who is told about it. Zeroed but for fd = -1 it is inert.
struct loop_watch {
  void (*ready)(struct loop_watch* watch, uint32_t events);
  int fd;
  // What epoll knows; 0 when the descriptor is not registered.
  uint32_t events;
};

struct loop_timer {
  void (*fire)(struct loop_timer* timer);
  struct loop_timer* next;
  uint64_t due_ms;
  bool armed;
};

// Work that runs once after the current batch, before the loop sleeps again.
struct loop_task {
  void (*run)(struct loop_task* task);
  struct loop_task* next;
  bool queued;
};

// First member of whatever is freed while the loop runs.
struct loop_garbage {
  void (*destroy)(struct loop_garbage* garbage);
  struct loop_garbage* next;
};

int loop_start(void);
// Forgets everything, for tests and fuzzers that start over.
void loop_stop(void);

// Registers, changes or (events 0) removes the watch. 0, or -1 with errno.
int loop_watch_set(struct loop_watch* watch, uint32_t events);
// Removes the watch and closes its descriptor. Harmless when it is closed.
void loop_watch_close(struct loop_watch* watch);

void loop_timer_start(struct loop_timer* timer, uint64_t delay_ms);
void loop_timer_stop(struct loop_timer* timer);

void loop_task_queue(struct loop_task* task);
void loop_discard(struct loop_garbage* garbage);

uint64_t loop_now_ms(void);

// One wait of at most `max_wait_ms` (-1: until something happens) and its batch.
void loop_run_once(int max_wait_ms);

#endif  // EMBERVM_AGENT_LOOP_H_
