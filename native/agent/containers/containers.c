#include "containers.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../container.h"
#include "cgroup.h"
#include "files.h"
#include "spec.h"

#define CGROUP_PARENT "containers/"

enum { kPollMs = 10 };

struct container* containers;

struct container* container_find(const char* id) {
  struct container* container = containers;
  while (container != NULL && strcmp(container->id, id) != 0) {
    container = container->next;
  }
  return container;
}

struct process* container_find_process(struct container* container, const char* id) {
  if (id[0] == '\0') {
    return container->first;
  }
  struct process* process = container->processes;
  while (process != NULL && strcmp(process->id, id) != 0) {
    process = process->next;
  }
  return process;
}

// --- The end

static void destroy(struct loop_garbage* garbage) {
  struct container* container = CONTAINER_OF(garbage, struct container, garbage);
  free(container->filter);
  free(container->cgroup_path);
  free(container);
}

// Nothing runs in it any more.
static void dispose(struct container* container) {
  for (struct container** at = &containers; *at != NULL; at = &(*at)->next) {
    if (*at == container) {
      *at = container->next;
      break;
    }
  }
  while (container->processes != NULL) {
    process_dispose(container->processes);
  }
  loop_timer_stop(&container->poll);
  oom_watch_stop(&container->oom);
  const int fds[] = {container->init, container->cgroup, container->device_program};
  for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
    close_descriptor(&fds[i]);
  }
  if (container->cgroup_path != NULL) {
    cgroup_remove(container->cgroup_path);
  }
  while (container->removals != NULL) {
    pending_reply_empty(container->removals);
  }
  loop_discard(&container->garbage);
}

static bool is_empty(const struct container* container) {
  for (const struct process* process = container->processes; process != NULL;
       process = process->next) {
    if (process->pid > 0) {
      return false;
    }
  }
  return container->cgroup < 0 || cgroup_is_empty(container->cgroup);
}

static void try_dispose(struct container* container) {
  if (!container->killing) {
    return;
  }
  if (is_empty(container)) {
    dispose(container);
  } else {
    loop_timer_start(&container->poll, kPollMs);
  }
}

static void on_poll(struct loop_timer* timer) {
  try_dispose(CONTAINER_OF(timer, struct container, poll));
}

void container_kill(struct container* container) {
  if (container->cgroup < 0 || !cgroup_kill(container->cgroup)) {
    for (const struct process* process = container->processes; process != NULL;
         process = process->next) {
      if (process->pid > 0) {
        kill(process->pid, SIGKILL);
      }
    }
  }
  if (container->paused) {
    container->paused = !cgroup_freeze(container->cgroup, false);
  }
}

void container_drop(struct container* container) {
  container->killing = true;
  container_kill(container);
  try_dispose(container);
}

void container_remove(struct container* container, const struct call* call) {
  if (pending_open(call, &container->removals, container) != NULL) {
    container_drop(container);
  }
}

// --- Changes

static void fail_starter(struct process* process) {
  const struct report* failure = &process->failure;
  const bool told = process->failed && failure->message[0] != '\0';
  while (process->starter != NULL) {
    pending_fail(process->starter,
                 told && failure->callers_fault ? TTRPC_INVALID_ARGUMENT : TTRPC_INTERNAL,
                 told ? failure->message : "the process ended before its program ran");
  }
}

static void reply_starter(struct process* process) {
  while (process->starter != NULL) {
    pending_reply_empty(process->starter);
  }
}

static void first_is_ready(struct container* container) {
  struct process* first = container->first;
  const int error = container->device_program < 0
                        ? 0
                        : cgroup_attach_devices(container->cgroup, container->device_program);
  if (error != 0) {
    struct text reason;
    text_failure(&reason, "apply linux.resources.devices", NULL, error);
    first->failed = true;
    memcpy(first->failure.message, reason.data, reason.length + 1);
    fail_starter(first);
    container_drop(container);
    return;
  }
  container->state = CONTAINER_CREATED;
  reply_starter(first);
}

void container_process_changed(struct process* process) {
  struct container* container = process->container;
  if (process == container->first && container->state == CONTAINER_CREATING) {
    if (process->state == PROCESS_READY && !process->failed) {
      first_is_ready(container);
    } else {
      fail_starter(process);
      container_drop(container);
    }
    return;
  }
  if (process->state != PROCESS_RUNNING) {
    fail_starter(process);
    return;
  }
  if (process == container->first) {
    container->state = CONTAINER_RUNNING;
  }
  reply_starter(process);
}

void container_process_ended(struct process* process) {
  struct container* container = process->container;
  const bool never_ran = process->starter != NULL || process->failed;
  fail_starter(process);
  if (process == container->first) {
    if (container->state == CONTAINER_CREATING) {
      container_drop(container);
      return;
    }
    container->state = CONTAINER_STOPPED;
  } else if (never_ran) {
    process_dispose(process);
  }
  try_dispose(container);
}

// --- Creation

static bool copy_filter(struct container* container, const struct container_spec* spec) {
  if (spec->filter == NULL) {
    return true;
  }
  const size_t size = spec->filter_length * sizeof(struct sock_filter);
  container->filter = malloc(size);
  if (container->filter == NULL) {
    return false;
  }
  memcpy(container->filter, spec->filter, size);
  container->filter_length = spec->filter_length;
  container->filter_flags = spec->filter_flags;
  return true;
}

static bool name_cgroup(struct container* container, const struct container_spec* spec) {
  const bool own = spec->cgroup[0] == '\0' || strcmp(spec->cgroup, "/") == 0;
  const char* parent = own ? CGROUP_PARENT : "";
  const char* path = own ? container->id : spec->cgroup;
  container->cgroup_path = malloc(strlen(parent) + strlen(path) + 1);
  if (container->cgroup_path == NULL) {
    return false;
  }
  memcpy(container->cgroup_path, parent, strlen(parent));
  memcpy(container->cgroup_path + strlen(parent), path, strlen(path) + 1);
  return true;
}

static int make_cgroup(struct container* container, const struct container_spec* spec,
                       struct text* reason) {
  bool made;
  container->cgroup = cgroup_make(container->cgroup_path, &made, reason);
  int error = container->cgroup < 0 ? errno : 0;
  if (error == 0 && !made && !cgroup_is_empty(container->cgroup)) {
    text_join(reason, "linux.cgroupsPath is in use: ", container->cgroup_path, NULL);
    // It is not ours to kill or to remove.
    close(container->cgroup);
    container->cgroup = -1;
    free(container->cgroup_path);
    container->cgroup_path = NULL;
    return EBUSY;
  }
  if (error == 0) {
    oom_watch_start(&container->oom, container->cgroup, container->id);
    error = cgroup_limit(container->cgroup, spec->resources, reason);
  }
  if (error == 0) {
    container->device_program = cgroup_load_devices(spec->resources, &error, reason);
  }
  return error;
}

static int open_pid_namespace(const struct container_spec* spec, int* fd, struct text* reason) {
  *fd = -1;
  for (size_t i = 0; i < spec->join_count; i++) {
    if (spec->joins[i].flag == CLONE_NEWPID) {
      *fd = open(spec->joins[i].path, O_RDONLY | O_CLOEXEC);
      if (*fd < 0) {
        const int error = errno;
        text_failure(reason, "open", spec->joins[i].path, error);
        return error;
      }
    }
  }
  return 0;
}

static int start_first(struct container* container, const struct container_spec* spec,
                       const char* exec_id, struct text* reason) {
  int pid_namespace;
  const int error = open_pid_namespace(spec, &pid_namespace, reason);
  if (error != 0) {
    return error;
  }
  const struct process_request request = {
      .child = {.container = spec,
                .process = &spec->process,
                .id = container->id,
                .first = -1,
                .pid_namespace = pid_namespace,
                .cgroup = container->cgroup},
      .id = exec_id,
  };
  container->first = process_start(container, &request, reason);
  close_descriptor(&pid_namespace);
  if (container->first == NULL) {
    return EAGAIN;
  }
  container->init = (int)syscall(SYS_pidfd_open, container->first->pid, 0);
  // The PID namespace is joined by the service, and that of users is the guest's.
  container->namespaces = spec->namespaces & ~CLONE_NEWPID;
  for (size_t i = 0; i < spec->join_count; i++) {
    container->namespaces |= spec->joins[i].flag & ~CLONE_NEWPID;
  }
  if (container->init < 0) {
    text_failure(reason, "pidfd_open", NULL, errno);
    return EAGAIN;
  }
  return 0;
}

static int check_create(const CreateContainerRequest* request, struct text* reason) {
  if (!spec_id_is_valid(request->container_id) ||
      (request->exec_id[0] != '\0' && !spec_id_is_valid(request->exec_id))) {
    text_join(reason, "invalid container id or exec id", NULL);
    return TTRPC_INVALID_ARGUMENT;
  }
  if (container_find(request->container_id) != NULL) {
    text_join(reason, "a container has this id: ", request->container_id, NULL);
    return TTRPC_ALREADY_EXISTS;
  }
  const char* missing = NULL;
  if (request->n_shared_mounts > 0) {
    missing = "shared_mounts";
  } else if (request->n_devices > 0) {
    missing = "devices";
  } else if (request->n_storages > 0) {
    missing = "storages";
  } else if (request->sandbox_pidns) {
    missing = "sandbox_pidns";
  } else if (request->stdin_port != 0 || request->stdout_port != 0 || request->stderr_port != 0) {
    missing = "stdin_port, stdout_port and stderr_port";
  }
  if (missing != NULL) {
    text_join(reason, missing, " are not supported", NULL);
    return TTRPC_UNIMPLEMENTED;
  }
  return 0;
}

static int check_hooks(const Grpc__Hooks* hooks, struct text* reason) {
  if (hooks != NULL &&
      hooks->n_prestart + hooks->n_createruntime + hooks->n_poststart + hooks->n_poststop > 0) {
    text_join(reason,
              "hooks of other kinds than createContainer and startContainer are not "
              "supported",
              NULL);
    return TTRPC_UNIMPLEMENTED;
  }
  return 0;
}

static struct container* allocate(const char* id) {
  struct container* container = calloc(1, sizeof(*container));
  if (container != NULL) {
    container->garbage.destroy = destroy;
    memcpy(container->id, id, strlen(id) + 1);
    container->init = container->cgroup = container->device_program = -1;
    container->poll.fire = on_poll;
    container->next = containers;
    containers = container;
  }
  return container;
}

void container_create(const CreateContainerRequest* request, const struct call* call) {
  struct text reason;
  struct container_spec spec;
  int code = check_create(request, &reason);
  if (code == 0) {
    code = spec_read(request->oci, &spec, &reason);
  }
  if (code == 0) {
    code = check_hooks(spec.hooks, &reason);
  }
  if (code == 0) {
    code = spec_read_user(request->string_user, &spec.process, &reason);
  }
  if (code != 0) {
    call_fail(call, (enum ttrpc_code)code, reason.data);
    return;
  }
  struct container* container = allocate(request->container_id);
  if (container == NULL) {
    call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "no memory for another container");
    return;
  }
  int error = 0;
  text_join(&reason, "no memory for another container", NULL);
  if (!copy_filter(container, &spec) || !name_cgroup(container, &spec)) {
    error = ENOMEM;
  }
  if (error == 0) {
    error = make_cgroup(container, &spec, &reason);
  }
  if (error == 0) {
    const char* id = request->exec_id[0] == '\0' ? request->container_id : request->exec_id;
    error = start_first(container, &spec, id, &reason);
  }
  if (error != 0) {
    call_fail(call, TTRPC_INTERNAL, reason.data);
    container_drop(container);
    return;
  }
  if (pending_open(call, &container->first->starter, container->first) == NULL) {
    container_drop(container);
  }
}

void container_start(struct container* container, const struct call* call) {
  if (container->state != CONTAINER_CREATED) {
    call_fail(call, TTRPC_FAILED_PRECONDITION, "the container was started before");
    return;
  }
  if (pending_open(call, &container->first->starter, container->first) == NULL) {
    return;
  }
  container->state = CONTAINER_STARTING;
  container->first->state = PROCESS_STARTING;
  if (!process_order(container->first, ORDER_START)) {
    fail_starter(container->first);
  }
}

void container_exec(struct container* container, const ExecProcessRequest* request,
                    const struct call* call) {
  struct text reason;
  struct process_spec spec;
  if (!spec_id_is_valid(request->exec_id)) {
    call_fail(call, TTRPC_INVALID_ARGUMENT, "invalid exec id");
    return;
  }
  if (container_find_process(container, request->exec_id) != NULL) {
    call_fail(call, TTRPC_ALREADY_EXISTS, "a process has this exec id");
    return;
  }
  if (request->stdin_port != 0 || request->stdout_port != 0 || request->stderr_port != 0) {
    call_fail(call, TTRPC_UNIMPLEMENTED,
              "stdin_port, stdout_port and stderr_port are not supported");
    return;
  }
  const bool ready = container->state == CONTAINER_CREATED || container->state == CONTAINER_RUNNING;
  if (!ready || container->paused || container->killing) {
    call_fail(call, TTRPC_FAILED_PRECONDITION, "the container is not created or running");
    return;
  }
  int code = spec_read_process(request->process, &spec, &reason);
  if (code == 0) {
    code = spec_read_user(request->string_user, &spec, &reason);
  }
  if (code != 0) {
    call_fail(call, (enum ttrpc_code)code, reason.data);
    return;
  }
  const struct process_request start = {
      .child = {.process = &spec,
                .id = container->id,
                .first = container->init,
                .first_namespaces = container->namespaces,
                .pid_namespace = container->init,
                .cgroup = container->cgroup,
                .filter = container->filter,
                .filter_length = container->filter_length,
                .filter_flags = container->filter_flags},
      .id = request->exec_id,
  };
  struct process* process = process_start(container, &start, &reason);
  if (process == NULL) {
    call_fail(call, TTRPC_INTERNAL, reason.data);
  } else {
    pending_open(call, &process->starter, process);
  }
}
