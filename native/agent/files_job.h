// A file operation that takes long, on a stream of its own. It works in slices
// from the event loop, sends only while the connection has room, and ends with
// its stream: whoever closes the connection ends it.
#ifndef EMBERVM_AGENT_FILES_JOB_H_
#define EMBERVM_AGENT_FILES_JOB_H_

#include <stdbool.h>
#include <stddef.h>

#include "files_at.h"
#include "loop.h"
#include "server.h"
#include "text.h"

// Room for an event with one entry: a name or a path, and the target of a link.
#define FILE_EVENT_ROOM ((size_t)9 * 1024)

struct file_job;

// Each that gives a bool: false with job->error when the job has failed.
struct file_job_type {
  // Of the whole object, whose first member is the job.
  size_t size;
  // The first request. What `release` frees is in a valid state already: zeroed,
  // then `prepare`d.
  void (*prepare)(struct file_job* job);
  bool (*start)(struct file_job* job, const FileRequest* request);
  // A later request. NULL: there must be none.
  bool (*more)(struct file_job* job, const FileRequest* request);
  // The client sends no more. NULL: that does not matter.
  bool (*ended)(struct file_job* job);
  // One slice. It calls file_job_continue if there is more to do now; after a send
  // that found no room it is called again by itself.
  bool (*run)(struct file_job* job);
  void (*release)(struct file_job* job);
};

struct file_job {
  struct loop_garbage garbage;
  struct stream stream;
  struct loop_timer slice;
  const struct file_job_type* type;
  struct file_job* next;
  bool started;
  // The last event is all that is owed.
  bool over;
  struct file_error error;
  // Where below the path of the request it failed. Empty: there.
  struct text where;
};

// Opens a stream and its job; the request may come with the call or behind it.
void file_job_open(const struct call* call, const struct file_job_type* type);

void file_job_continue(struct file_job* job);

// Whether an event of `size` bytes can be sent now. If not, `run` is called once
// it can.
bool file_job_has_room(struct file_job* job, size_t size);
// Sends an event for which there is room.
void file_job_send(struct file_job* job, const FileEvent* event);
// Sends the one entry.
void file_job_send_entry(struct file_job* job, FileInfo* info);

// Ends the job with success, behind an empty event that confirms it.
void file_job_finish(struct file_job* job);

#endif  // EMBERVM_AGENT_FILES_JOB_H_
