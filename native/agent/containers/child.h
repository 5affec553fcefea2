// A process of a container between its creation and its program. It is a copy of
// the service (fork, not vfork: it waits between create and start), with the
// message that asked for it still in its arena.
//
// It talks to the service by a socket of records: it reports a failure, or that it
// is ready to start; the service says when to go on. The socket closes when the
// program runs.
#ifndef EMBERVM_CONTAINERS_CHILD_H_
#define EMBERVM_CONTAINERS_CHILD_H_

#include <stdbool.h>
#include <sys/types.h>

#include "../text.h"
#include "spec.h"

enum report_kind { REPORT_FAILED, REPORT_TERMINAL, REPORT_READY };

struct report {
  enum report_kind kind;
  // The request asked for what cannot be, and nothing is wrong with the guest.
  bool callers_fault;
  char message[AGENT_MESSAGE_SIZE];
};

// What the service says: go on with the set-up, run the program.
enum { ORDER_SET_UP = 'c', ORDER_START = 's' };

struct child_request {
  // NULL: a further process, which joins the namespaces of `first`.
  const struct container_spec* container;
  const struct process_spec* process;
  const char* id;
  // Descriptors of the service: a pidfd of the container's first process or -1, and
  // the namespaces to join there.
  int first;
  int first_namespaces;
  // Of the process whose PID namespace the new one is in; -1: the service's, or a new one.
  int pid_namespace;
  int cgroup;
  // All above 2. Not used with a terminal.
  int stdio[3];
  int sync;
  // The filter of the container, for a further process.
  const struct sock_filter* filter;
  size_t filter_length;
  unsigned filter_flags;
  // A first process waits for ORDER_SET_UP.
  bool waits_for_hooks;
};

// The pid, or -1 with errno.
pid_t child_start(const struct child_request* request);

// --- For the parts of the child

struct child {
  const struct child_request* request;
  // As the service knows it.
  pid_t pid;
};

// Reports "<call>(<path>): <error>" and ends the process.
_Noreturn void child_fail(const char* call, const char* path, int error);
_Noreturn void child_refuse(const char* why, const char* what);

// Makes the container's root and everything mounted in it, and enters it.
void rootfs_enter(const struct child* child);
// What may only be done when all devices are made.
void rootfs_seal(const struct child* child);
// A terminal of the container's own, as standard input and output; the other end
// goes to the service.
void child_open_terminal(const struct child* child);

#endif  // EMBERVM_CONTAINERS_CHILD_H_
