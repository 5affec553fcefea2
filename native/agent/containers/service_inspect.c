// The methods that tell what containers do.
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "../arena.h"
#include "../text.h"
#include "files.h"
#include "messages.h"
#include "page.h"
#include "processes.h"
#include "service.h"
#include "stats.h"

enum { kInterfacesSize = 16 * 1024 };

// A process that has ended sees no interfaces.
static bool add_interfaces(const struct container* container,
                           Grpc__StatsContainerResponse* response) {
  const pid_t pid = container->first == NULL ? 0 : container->first->pid;
  if (pid <= 0) {
    return true;
  }
  struct text path;
  text_join(&path, "/proc/", NULL);
  text_add_number(&path, (uint64_t)pid);
  text_add(&path, "/net/dev");
  char* content = arena_allocate(kInterfacesSize);
  if (content == NULL) {
    return false;
  }
  return file_read(AT_FDCWD, path.data, content, kInterfacesSize) <= 0 ||
         stats_read_interfaces(content, response);
}

void stats_container(const struct call* call) {
  const Grpc__StatsContainerRequest* request =
      call_decode(call, &grpc__stats_container_request__descriptor);
  const struct container* container =
      request == NULL ? NULL : find_container(call, request->container_id);
  if (container == NULL) {
    return;
  }
  Grpc__StatsContainerResponse response = GRPC__STATS_CONTAINER_RESPONSE__INIT;
  response.cgroup_stats = stats_read(container->cgroup);
  if (response.cgroup_stats == NULL || !add_interfaces(container, &response)) {
    call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "no memory for the statistics");
    return;
  }
  reply_large(call, &response.base);
}

static bool write_table(const Grpc__ListProcessesRequest* request, const pid_t* pids, size_t count,
                        struct page* page, struct text* reason) {
  struct columns columns;
  if (!columns_read(request->args, request->n_args, &columns, reason)) {
    return false;
  }
  __attribute__((cleanup(close_descriptor))) const int proc =
      open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  processes_write_table(page, proc, pids, count, &columns);
  return true;
}

void list_processes(const struct call* call) {
  const Grpc__ListProcessesRequest* request =
      call_decode(call, &grpc__list_processes_request__descriptor);
  const struct container* container =
      request == NULL ? NULL : find_container(call, request->container_id);
  if (container == NULL) {
    return;
  }
  const bool json = strcmp(request->format, "json") == 0;
  if (!json && strcmp(request->format, "table") != 0) {
    call_fail(call, TTRPC_INVALID_ARGUMENT, "format must be json or table");
    return;
  }
  struct page page;
  size_t count = 0;
  pid_t* pids = arena_allocate(MAX_LISTED_PROCESSES * sizeof(*pids));
  if (pids == NULL || !page_start(&page, MAX_ANSWER - MAX_ENVELOPE)) {
    call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "no memory for the list");
    return;
  }
  struct text reason;
  const int error = processes_find(container->cgroup, pids, MAX_LISTED_PROCESSES, &count);
  if (error != 0 && error != ENOBUFS) {
    text_failure(&reason, "read the control group of", container->id, error);
    call_fail(call, TTRPC_INTERNAL, reason.data);
    return;
  }
  if (json) {
    processes_write_json(&page, pids, count);
  } else if (!write_table(request, pids, count, &page, &reason)) {
    call_fail(call, TTRPC_INVALID_ARGUMENT, reason.data);
    return;
  }
  if (error == ENOBUFS || page.cut) {
    call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "the container has more processes than fit a list");
    return;
  }
  Grpc__ListProcessesResponse response = GRPC__LIST_PROCESSES_RESPONSE__INIT;
  response.process_list.data = (uint8_t*)page.data;
  response.process_list.len = page.length;
  reply_large(call, &response.base);
}
