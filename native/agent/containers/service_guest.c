// The methods that are about the guest as a whole.
#include <errno.h>
#include <fcntl.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "../random.h"
#include "../text.h"
#include "copy_file.h"
#include "files.h"
#include "machine.h"
#include "messages.h"
#include "metrics.h"
#include "page.h"
#include "service.h"

static void answer(const struct call* call, int code, const struct text* reason) {
  if (code == 0) {
    reply_empty(call);
  } else {
    call_fail(call, (enum ttrpc_code)code, reason->data);
  }
}

// Its file systems are in memory: one file may take half of it.
static uint64_t copy_limit(void) {
  struct sysinfo info;
  return sysinfo(&info) < 0 ? 0 : (uint64_t)info.totalram * info.mem_unit / 2;
}

void copy_file_chunk(const struct call* call) {
  enum { kRootMode = 0755 };
  const Grpc__CopyFileRequest* request = call_decode(call, &grpc__copy_file_request__descriptor);
  if (request == NULL) {
    return;
  }
  struct text reason;
  int error = directories_make(COPY_FILE_ROOT, kRootMode);
  __attribute__((cleanup(close_descriptor))) const int root =
      open(COPY_FILE_ROOT, O_PATH | O_DIRECTORY | O_CLOEXEC);
  error = root < 0 && error == 0 ? errno : error;
  if (error != 0) {
    text_failure(&reason, "open", COPY_FILE_ROOT, error);
    call_fail(call, TTRPC_INTERNAL, reason.data);
    return;
  }
  answer(call, copy_file(root, request, copy_limit(), &reason), &reason);
}

void get_guest_details(const struct call* call) {
  static char agent[] = AGENT_VERSION;
  const Grpc__GuestDetailsRequest* request =
      call_decode(call, &grpc__guest_details_request__descriptor);
  if (request == NULL) {
    return;
  }
  Grpc__AgentDetails details = GRPC__AGENT_DETAILS__INIT;
  details.version = agent;
  details.supports_seccomp = true;
  Grpc__GuestDetailsResponse response = GRPC__GUEST_DETAILS_RESPONSE__INIT;
  response.agent_details = &details;
  if (request->mem_block_size) {
    response.mem_block_size_bytes = machine_memory_section(MACHINE_MEMORY);
  }
  response.support_mem_hotplug_probe =
      request->mem_hotplug_probe && machine_has_probe(MACHINE_MEMORY);
  call_reply(call, &response.base);
}

void reseed_random_dev(const struct call* call) {
  const Grpc__ReseedRandomDevRequest* request =
      call_decode(call, &grpc__reseed_random_dev_request__descriptor);
  if (request == NULL) {
    return;
  }
  struct text reason;
  const int error = random_reseed(request->data.data, request->data.len, &reason);
  answer(call, error == 0 ? 0 : error == E2BIG ? TTRPC_INVALID_ARGUMENT : TTRPC_INTERNAL, &reason);
}

// Whoever asks to wait need not: it is done when it is answered, either way.
void online_cpu_mem(const struct call* call) {
  const Grpc__OnlineCPUMemRequest* request =
      call_decode(call, &grpc__online_cpumem_request__descriptor);
  if (request == NULL) {
    return;
  }
  struct text reason;
  int code = machine_online_cpus(MACHINE_CPUS, request->nb_cpus, &reason);
  if (code == 0 && !request->cpu_only) {
    code = machine_online_memory(MACHINE_MEMORY, &reason);
  }
  answer(call, code, &reason);
}

void mem_hotplug_by_probe(const struct call* call) {
  const Grpc__MemHotplugByProbeRequest* request =
      call_decode(call, &grpc__mem_hotplug_by_probe_request__descriptor);
  if (request == NULL) {
    return;
  }
  struct text reason;
  const int code = machine_probe_memory(MACHINE_MEMORY, request->memhotplugprobeaddr,
                                        request->n_memhotplugprobeaddr, &reason);
  answer(call, code, &reason);
}

void get_metrics(const struct call* call) {
  static uint64_t scrapes;
  if (call_decode(call, &grpc__get_metrics_request__descriptor) == NULL) {
    return;
  }
  __attribute__((cleanup(close_descriptor))) const int proc =
      open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  struct page page;
  if (!page_start(&page, MAX_ANSWER - MAX_ENVELOPE) || !metrics_write(&page, proc, ++scrapes)) {
    call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "no memory for the metrics");
    return;
  }
  Grpc__Metrics response = GRPC__METRICS__INIT;
  response.metrics = page.data;
  reply_large(call, &response.base);
}
