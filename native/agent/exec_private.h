// What the parts of Process.Exec share: exec.c moves output and watches the end,
// exec_input.c moves input, exec_start.c turns a request into a process.
#ifndef EMBERVM_AGENT_EXEC_PRIVATE_H_
#define EMBERVM_AGENT_EXEC_PRIVATE_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "buffer.h"
#include "loop.h"
#include "messages.h"
#include "server.h"
#include "terminal.h"
#include "text.h"

enum exec_state { EXEC_WAITING, EXEC_RUNNING, EXEC_ENDED };
enum { EXEC_STDOUT, EXEC_STDERR, EXEC_OUTPUTS };

struct exec;

struct exec_output {
  struct loop_watch watch;
  struct exec* exec;
  // Of ExecEvent.
  uint32_t field;
  // Bytes that were in the pipe when the process ended and are still there.
  size_t owed;
  // Not watched, because the connection has no room.
  bool blocked;
};

struct exec {
  struct loop_garbage garbage;
  struct stream stream;
  struct exec* next;
  enum exec_state state;
  uint64_t id;
  // The process and its group, while it has not been reaped; else 0.
  pid_t pid;
  int status;
  bool grace_over;
  // It is the workload's init, which goes on when its stream is lost.
  bool is_init;
  // It has lost it, and nobody has taken it up.
  bool left;

  struct loop_watch input;
  struct buffer pending;
  // The end of stdin has come; it closes once `pending` is written.
  bool input_ended;
  // The connection is held until `pending` is written.
  bool holding;

  // Instead of stdin and the outputs.
  struct terminal terminal;

  struct exec_output outputs[EXEC_OUTPUTS];
  struct loop_timer grace;
  struct loop_timer deadline;
};

struct exec_failure {
  ExecFailureKind kind;
  int error;
  struct text message;
};

// Whether a process with this id has not yet been reported as ended.
bool exec_id_in_use(uint64_t exec_id);

// --- Its input (exec_input.c)

void exec_clear_input(struct exec* exec);
void exec_take_input(struct exec* exec, const uint8_t* bytes, size_t length);
// It closes when what is pending has been written.
void exec_end_input(struct exec* exec);
void exec_close_input(struct exec* exec);

// Starts the process: sets pid and the descriptors. False with the failure.
bool exec_start_process(struct exec* exec, const ExecStart* start, struct exec_failure* failure);

#endif  // EMBERVM_AGENT_EXEC_PRIVATE_H_
