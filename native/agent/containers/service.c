// The methods of grpc.AgentService and grpc.Health: decode, call the module that does
// the work, answer. What is not in the table is answered with UNIMPLEMENTED.
#include "service.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../text.h"
#include "cgroup.h"
#include "spec.h"

#define SERVICE "grpc.AgentService"
#define HEALTH "grpc.Health"

enum { kMaxSignal = 64, kMaxSide = 65535, kMicroseconds = 1000000, kNanoseconds = 1000 };

static bool sandbox_exists;

bool service_has_sandbox(void) { return sandbox_exists; }

struct container* find_container(const struct call* call, const char* id) {
  struct container* container = container_find(id);
  if (container == NULL) {
    call_fail(call, TTRPC_INVALID_ARGUMENT, "Invalid container id");
  }
  return container;
}

static struct process* find_process(const struct call* call, const char* container_id,
                                    const char* id) {
  struct container* container = find_container(call, container_id);
  struct process* process = container == NULL ? NULL : container_find_process(container, id);
  if (container != NULL && process == NULL) {
    call_fail(call, TTRPC_NOT_FOUND, "Invalid exec id");
  }
  return process;
}

// --- The sandbox

static void check(const struct call* call) {
  Grpc__HealthCheckResponse response = GRPC__HEALTH_CHECK_RESPONSE__INIT;
  response.status = GRPC__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING;
  call_reply(call, &response.base);
}

static void version(const struct call* call) {
  static char protocol[] = "0.0.1";
  static char agent[] = AGENT_VERSION;
  Grpc__VersionCheckResponse response = GRPC__VERSION_CHECK_RESPONSE__INIT;
  response.grpc_version = protocol;
  response.agent_version = agent;
  call_reply(call, &response.base);
}

static void create_sandbox(const struct call* call) {
  const Grpc__CreateSandboxRequest* request =
      call_decode(call, &grpc__create_sandbox_request__descriptor);
  if (request == NULL) {
    return;
  }
  const char* missing = NULL;
  if (request->n_dns > 0) {
    missing = "dns is not supported";
  } else if (request->n_storages > 0) {
    missing = "storages is not supported";
  } else if (request->sandbox_pidns) {
    missing = "sandbox_pidns is not supported";
  } else if (request->guest_hook_path[0] != '\0') {
    missing = "guest_hook_path is not supported";
  } else if (request->n_kernel_modules > 0) {
    missing = "kernel_modules is not supported: the guest's kernel has no modules";
  }
  if (missing != NULL) {
    call_fail(call, TTRPC_UNIMPLEMENTED, missing);
    return;
  }
  if (sandbox_exists) {
    call_fail(call, TTRPC_FAILED_PRECONDITION, "the sandbox is created already");
    return;
  }
  if (request->hostname[0] != '\0' &&
      sethostname(request->hostname, strlen(request->hostname)) < 0) {
    call_fail(call, TTRPC_INVALID_ARGUMENT, "hostname cannot be set");
    return;
  }
  sandbox_exists = true;
  reply_empty(call);
}

static void destroy_sandbox(const struct call* call) {
  oom_reset();
  for (struct container *container = containers, *next; container != NULL; container = next) {
    next = container->next;
    container_drop(container);
  }
  sandbox_exists = false;
  reply_empty(call);
}

static void set_guest_date_time(const struct call* call) {
  const Grpc__SetGuestDateTimeRequest* request =
      call_decode(call, &grpc__set_guest_date_time_request__descriptor);
  if (request == NULL) {
    return;
  }
  const bool valid = request->sec >= 0 && request->usec >= 0 && request->usec < kMicroseconds;
  const struct timespec now = {.tv_sec = (time_t)request->sec,
                               .tv_nsec = (long)request->usec * kNanoseconds};
  if (!valid || clock_settime(CLOCK_REALTIME, &now) < 0) {
    call_fail(call, TTRPC_INVALID_ARGUMENT, "Sec and Usec are no time that can be set");
    return;
  }
  reply_empty(call);
}

// --- Containers

static void create_container(const struct call* call) {
  const CreateContainerRequest* request =
      call_decode(call, &grpc__create_container_request__descriptor);
  if (request == NULL) {
    return;
  }
  if (!sandbox_exists) {
    call_fail(call, TTRPC_FAILED_PRECONDITION, "no sandbox yet: call CreateSandbox first");
    return;
  }
  container_create(request, call);
}

static void start_container(const struct call* call) {
  const Grpc__StartContainerRequest* request =
      call_decode(call, &grpc__start_container_request__descriptor);
  struct container* container =
      request == NULL ? NULL : find_container(call, request->container_id);
  if (container != NULL) {
    container_start(container, call);
  }
}

static void remove_container(const struct call* call) {
  enum { kNsPerSecond = 1000000000 };
  const Grpc__RemoveContainerRequest* request =
      call_decode(call, &grpc__remove_container_request__descriptor);
  struct container* container =
      request == NULL ? NULL : find_container(call, request->container_id);
  if (container == NULL) {
    return;
  }
  struct call bounded = *call;
  const int64_t timeout = (int64_t)request->timeout * kNsPerSecond;
  if (timeout > 0 && (bounded.timeout_ns <= 0 || timeout < bounded.timeout_ns)) {
    bounded.timeout_ns = timeout;
  }
  container_remove(container, &bounded);
}

static void exec_process(const struct call* call) {
  const ExecProcessRequest* request = call_decode(call, &grpc__exec_process_request__descriptor);
  struct container* container =
      request == NULL ? NULL : find_container(call, request->container_id);
  if (container != NULL) {
    container_exec(container, request, call);
  }
}

static void signal_process(const struct call* call) {
  const Grpc__SignalProcessRequest* request =
      call_decode(call, &grpc__signal_process_request__descriptor);
  struct process* process =
      request == NULL ? NULL : find_process(call, request->container_id, request->exec_id);
  if (process == NULL) {
    return;
  }
  if (request->signal < 1 || request->signal > kMaxSignal) {
    call_fail(call, TTRPC_INVALID_ARGUMENT, "signal must be 1 to 64");
    return;
  }
  if (request->exec_id[0] == '\0' && request->signal == SIGKILL) {
    container_kill(process->container);
  } else if (process->pid > 0 && kill(process->pid, (int)request->signal) < 0 && errno != ESRCH) {
    call_fail(call, TTRPC_INVALID_ARGUMENT, "the signal cannot be sent");
    return;
  }
  reply_empty(call);
}

static void wait_process(const struct call* call) {
  const Grpc__WaitProcessRequest* request =
      call_decode(call, &grpc__wait_process_request__descriptor);
  struct process* process =
      request == NULL ? NULL : find_process(call, request->container_id, request->exec_id);
  if (process != NULL) {
    process_wait(process, call);
  }
}

static void freeze(const struct call* call, const char* id, bool frozen) {
  struct container* container = find_container(call, id);
  if (container == NULL) {
    return;
  }
  if (container->state != CONTAINER_RUNNING || container->paused == frozen) {
    call_fail(call, TTRPC_FAILED_PRECONDITION,
              frozen ? "the container is not running" : "the container is not paused");
  } else if (!cgroup_freeze(container->cgroup, frozen)) {
    call_fail(call, TTRPC_INTERNAL, "write to cgroup.freeze failed");
  } else {
    container->paused = frozen;
    reply_empty(call);
  }
}

static void pause_container(const struct call* call) {
  const Grpc__PauseContainerRequest* request =
      call_decode(call, &grpc__pause_container_request__descriptor);
  if (request != NULL) {
    freeze(call, request->container_id, true);
  }
}

static void resume_container(const struct call* call) {
  const Grpc__ResumeContainerRequest* request =
      call_decode(call, &grpc__resume_container_request__descriptor);
  if (request != NULL) {
    freeze(call, request->container_id, false);
  }
}

static void update_container(const struct call* call) {
  const Grpc__UpdateContainerRequest* request =
      call_decode(call, &grpc__update_container_request__descriptor);
  struct container* container =
      request == NULL ? NULL : find_container(call, request->container_id);
  if (container == NULL) {
    return;
  }
  struct text reason;
  int code = spec_check_resources(request->resources, &reason);
  if (code == 0 && request->resources != NULL && request->resources->n_devices > 0) {
    text_join(&reason, "resources.devices cannot be changed", NULL);
    code = TTRPC_UNIMPLEMENTED;
  }
  if (code == 0 && cgroup_limit(container->cgroup, request->resources, &reason) != 0) {
    code = TTRPC_INTERNAL;
  }
  if (code == 0) {
    reply_empty(call);
  } else {
    call_fail(call, (enum ttrpc_code)code, reason.data);
  }
}

// --- Streams

static void write_stdin(const struct call* call) {
  const Grpc__WriteStreamRequest* request =
      call_decode(call, &grpc__write_stream_request__descriptor);
  struct process* process =
      request == NULL ? NULL : find_process(call, request->container_id, request->exec_id);
  if (process != NULL) {
    process_write(process, request->data.data, request->data.len, call);
  }
}

static void read_stream(const struct call* call, unsigned output) {
  const Grpc__ReadStreamRequest* request =
      call_decode(call, &grpc__read_stream_request__descriptor);
  struct process* process =
      request == NULL ? NULL : find_process(call, request->container_id, request->exec_id);
  if (process == NULL) {
    return;
  }
  if (request->len == 0) {
    call_fail(call, TTRPC_INVALID_ARGUMENT, "len must be 1 or more");
    return;
  }
  process_read(process, output, request->len, call);
}

static void read_stdout(const struct call* call) { read_stream(call, 0); }
static void read_stderr(const struct call* call) { read_stream(call, 1); }

static void close_stdin(const struct call* call) {
  const Grpc__CloseStdinRequest* request =
      call_decode(call, &grpc__close_stdin_request__descriptor);
  struct process* process =
      request == NULL ? NULL : find_process(call, request->container_id, request->exec_id);
  if (process != NULL) {
    process_close_input(process);
    reply_empty(call);
  }
}

static void tty_win_resize(const struct call* call) {
  const Grpc__TtyWinResizeRequest* request =
      call_decode(call, &grpc__tty_win_resize_request__descriptor);
  struct process* process =
      request == NULL ? NULL : find_process(call, request->container_id, request->exec_id);
  if (process == NULL) {
    return;
  }
  if (request->row > kMaxSide || request->column > kMaxSide) {
    call_fail(call, TTRPC_INVALID_ARGUMENT, "row and column must be at most 65535");
  } else if (!process->terminal || !process_resize(process, request->row, request->column)) {
    call_fail(call, TTRPC_UNAVAILABLE, "no tty");
  } else {
    reply_empty(call);
  }
}

const struct method server_methods[] = {
    {HEALTH, "Check", check},
    {HEALTH, "Version", version},
    {SERVICE, "CreateSandbox", create_sandbox},
    {SERVICE, "DestroySandbox", destroy_sandbox},
    {SERVICE, "GetGuestDetails", get_guest_details},
    {SERVICE, "SetGuestDateTime", set_guest_date_time},
    {SERVICE, "CreateContainer", create_container},
    {SERVICE, "StartContainer", start_container},
    {SERVICE, "RemoveContainer", remove_container},
    {SERVICE, "ExecProcess", exec_process},
    {SERVICE, "SignalProcess", signal_process},
    {SERVICE, "WaitProcess", wait_process},
    {SERVICE, "PauseContainer", pause_container},
    {SERVICE, "ResumeContainer", resume_container},
    {SERVICE, "UpdateContainer", update_container},
    {SERVICE, "StatsContainer", stats_container},
    {SERVICE, "ListProcesses", list_processes},
    {SERVICE, "GetOOMEvent", oom_get_event},
    {SERVICE, "CopyFile", copy_file_chunk},
    {SERVICE, "ReseedRandomDev", reseed_random_dev},
    {SERVICE, "OnlineCPUMem", online_cpu_mem},
    {SERVICE, "MemHotplugByProbe", mem_hotplug_by_probe},
    {SERVICE, "GetMetrics", get_metrics},
    {SERVICE, "UpdateInterface", update_interface},
    {SERVICE, "ListInterfaces", list_interfaces},
    {SERVICE, "UpdateRoutes", update_routes},
    {SERVICE, "ListRoutes", list_routes},
    {SERVICE, "AddARPNeighbors", add_arp_neighbors},
    {SERVICE, "WriteStdin", write_stdin},
    {SERVICE, "ReadStdout", read_stdout},
    {SERVICE, "ReadStderr", read_stderr},
    {SERVICE, "CloseStdin", close_stdin},
    {SERVICE, "TtyWinResize", tty_win_resize},
    {NULL, NULL, NULL},
};
