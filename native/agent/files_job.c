#include "files_job.h"

#include <errno.h>
#include <stdlib.h>

#include "container.h"
#include "files.h"
#include "poweroff.h"
#include "root.h"

// The last event, with a path in it, and the end of the stream.
enum { kEndRoom = 1024 };

static struct file_job* jobs;

static void destroy(struct loop_garbage* garbage) {
  free(CONTAINER_OF(garbage, struct file_job, garbage));
}

static void dispose(struct file_job* job) {
  for (struct file_job** at = &jobs; *at != NULL; at = &(*at)->next) {
    if (*at == job) {
      *at = job->next;
      break;
    }
  }
  loop_timer_stop(&job->slice);
  job->type->release(job);
  loop_discard(&job->garbage);
}

static void on_aborted(struct stream* stream) {
  dispose(CONTAINER_OF(stream, struct file_job, stream));
}

static void try_finish(struct file_job* job) {
  if (!file_job_has_room(job, kEndRoom)) {
    return;
  }
  FileEvent event = EMBERVM__AGENT__V1__FILE_EVENT__INIT;
  if (job->error.number != 0) {
    event.error_number = job->error.number;
    event.call = job->error.call;
    event.path.data = (uint8_t*)job->where.data;
    event.path.len = job->where.length;
  }
  file_job_send(job, &event);
  if (!job->stream.open) {
    return;
  }
  if (stream_finish(&job->stream)) {
    dispose(job);
  } else {
    connection_close(job->stream.connection);
  }
}

void file_job_finish(struct file_job* job) {
  job->over = true;
  loop_timer_stop(&job->slice);
  try_finish(job);
}

// What a step of the job has said. The job may be gone afterwards.
static void settle(struct file_job* job, bool succeeded) {
  if (!succeeded && job->stream.open && !job->over) {
    file_job_finish(job);
  }
}

static void on_slice(struct loop_timer* timer) {
  struct file_job* job = CONTAINER_OF(timer, struct file_job, slice);
  settle(job, job->type->run(job));
}

void file_job_continue(struct file_job* job) {
  // A timer and not a task: what others ask for has its turn in between.
  if (job->stream.open && !job->over) {
    loop_timer_start(&job->slice, 0);
  }
}

static void on_drained(struct stream* stream) {
  struct file_job* job = CONTAINER_OF(stream, struct file_job, stream);
  if (job->over) {
    try_finish(job);
  } else if (job->started && job->type->run != NULL) {
    file_job_continue(job);
  }
}

static void on_message(struct stream* stream, const uint8_t* bytes, size_t length) {
  struct file_job* job = CONTAINER_OF(stream, struct file_job, stream);
  const FileRequest* request =
      stream_decode(stream, &embervm__agent__v1__file_request__descriptor, bytes, length);
  // What comes behind a failure was sent before it was known.
  if (request == NULL || job->over) {
    return;
  }
  if (request->data.len > AGENT_MAX_FILE_MESSAGE) {
    stream_fail(stream, TTRPC_INVALID_ARGUMENT, "the data of a message is over 64 KiB");
    return;
  }
  if (job->started) {
    if (job->type->more == NULL) {
      stream_fail(stream, TTRPC_INVALID_ARGUMENT, "one request is all that this call takes");
    } else {
      settle(job, job->type->more(job, request));
    }
    return;
  }
  if (!root_is_ready()) {
    stream_fail(stream, TTRPC_FAILED_PRECONDITION, "no root yet: call SetUpRoot first");
    return;
  }
  if (power_off_has_begun()) {
    stream_fail(stream, TTRPC_UNAVAILABLE, "the machine is powering off");
    return;
  }
  job->started = true;
  settle(job, job->type->start(job, request));
}

static void on_remote_closed(struct stream* stream) {
  struct file_job* job = CONTAINER_OF(stream, struct file_job, stream);
  if (!job->started) {
    stream_fail(stream, TTRPC_INVALID_ARGUMENT, "the stream ended before a request");
  } else if (!job->over && job->type->ended != NULL) {
    settle(job, job->type->ended(job));
  }
}

static const struct stream_operations kOperations = {
    .message = on_message,
    .remote_closed = on_remote_closed,
    .drained = on_drained,
    .aborted = on_aborted,
};

void file_job_open(const struct call* call, const struct file_job_type* type) {
  struct file_job* job = calloc(1, type->size);
  if (job == NULL) {
    call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "no memory for another file operation");
    return;
  }
  if (!stream_open(&job->stream, call, &kOperations)) {
    free(job);
    return;
  }
  job->garbage.destroy = destroy;
  job->slice.fire = on_slice;
  job->type = type;
  job->next = jobs;
  jobs = job;
  type->prepare(job);
  if (call->length > 0) {
    on_message(&job->stream, call->payload, call->length);
  }
  if (call->remote_closed && job->stream.open) {
    on_remote_closed(&job->stream);
  }
}

bool file_job_has_room(struct file_job* job, size_t size) {
  struct connection* connection = job->stream.connection;
  if (connection_reserve(connection, size) == NULL) {
    return false;
  }
  connection_commit(connection, 0);
  return true;
}

void file_job_send(struct file_job* job, const FileEvent* event) {
  if (!stream_send(&job->stream, &event->base)) {
    connection_close(job->stream.connection);
  }
}

void file_job_send_entry(struct file_job* job, FileInfo* info) {
  FileInfo* entries[] = {info};
  FileEvent event = EMBERVM__AGENT__V1__FILE_EVENT__INIT;
  event.n_entries = 1;
  event.entries = entries;
  file_job_send(job, &event);
}

void files_release(void) {
  while (jobs != NULL) {
    stream_fail(&jobs->stream, TTRPC_UNAVAILABLE, "the machine is powering off");
  }
}
