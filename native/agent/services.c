// The methods of embervm.agent.v1: decode, call the module that does the work,
// answer.
#include <string.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>

#include "clock.h"
#include "container_service.h"
#include "exec.h"
#include "files.h"
#include "hotplug.h"
#include "limits.h"
#include "messages.h"
#include "poweroff.h"
#include "restored.h"
#include "root.h"
#include "root_mount.h"
#include "server.h"

#define AGENT_SERVICE "embervm.agent.v1.Agent"
#define PROCESS_SERVICE "embervm.agent.v1.Process"
#define FILES_SERVICE "embervm.agent.v1.Files"

enum { kMaxSignal = 64, kMaxSide = 65535 };

static void get_info(const struct call* call) {
  struct utsname names;
  uname(&names);
  static char version[] = AGENT_VERSION;
  GetInfoResponse response = EMBERVM__AGENT__V1__GET_INFO_RESPONSE__INIT;
  response.agent_version = version;
  response.kernel_release = names.release;
  response.started_ns = clock_boot.started_ns;
  response.dialled_ns = clock_boot.dialled_ns;
  call_reply(call, &response.base);
}

static void set_up_root(const struct call* call) {
  const SetUpRootRequest* request =
      call_decode(call, &embervm__agent__v1__set_up_root_request__descriptor);
  if (request == NULL) {
    return;
  }
  struct text reason;
  const int code = root_set_up(request, &reason);
  if (code != 0) {
    call_fail(call, (enum ttrpc_code)code, reason.data);
    return;
  }
  const SetUpRootResponse response = EMBERVM__AGENT__V1__SET_UP_ROOT_RESPONSE__INIT;
  call_reply(call, &response.base);
}

static void get_memory(const struct call* call) {
  struct sysinfo info;
  if (sysinfo(&info) < 0) {
    call_fail(call, TTRPC_INTERNAL, "sysinfo failed");
    return;
  }
  GetMemoryResponse response = EMBERVM__AGENT__V1__GET_MEMORY_RESPONSE__INIT;
  response.total_bytes = (uint64_t)info.totalram * info.mem_unit;
  response.free_bytes = (uint64_t)info.freeram * info.mem_unit;
  response.shared_bytes = (uint64_t)info.sharedram * info.mem_unit;
  response.buffer_bytes = (uint64_t)info.bufferram * info.mem_unit;
  call_reply(call, &response.base);
}

static void restored(const struct call* call) {
  const RestoredRequest* request =
      call_decode(call, &embervm__agent__v1__restored_request__descriptor);
  if (request == NULL) {
    return;
  }
  struct text reason;
  const int code = restored_apply(request, &reason);
  if (code != 0) {
    call_fail(call, (enum ttrpc_code)code, reason.data);
    return;
  }
  const RestoredResponse response = EMBERVM__AGENT__V1__RESTORED_RESPONSE__INIT;
  call_reply(call, &response.base);
}

static void bind_slot(const struct call* call) {
  const BindSlotRequest* request =
      call_decode(call, &embervm__agent__v1__bind_slot_request__descriptor);
  if (request == NULL) {
    return;
  }
  if (request->slot >= AGENT_MAX_SLOTS) {
    call_fail(call, TTRPC_INVALID_ARGUMENT, "slot must be less than 64");
    return;
  }
  struct text node;
  struct text reason;
  text_clear(&reason);
  BindSlotResponse response = EMBERVM__AGENT__V1__BIND_SLOT_RESPONSE__INIT;
  response.error_number = slot_bind(request->slot, &node, &reason);
  response.message = reason.data;
  response.block_device = node.data;
  call_reply(call, &response.base);
}

static void unbind_slot(const struct call* call) {
  const UnbindSlotRequest* request =
      call_decode(call, &embervm__agent__v1__unbind_slot_request__descriptor);
  if (request == NULL) {
    return;
  }
  if (request->slot >= AGENT_MAX_SLOTS) {
    call_fail(call, TTRPC_INVALID_ARGUMENT, "slot must be less than 64");
    return;
  }
  struct text reason;
  text_clear(&reason);
  UnbindSlotResponse response = EMBERVM__AGENT__V1__UNBIND_SLOT_RESPONSE__INIT;
  response.error_number = slot_unbind(request->slot, &reason);
  response.message = reason.data;
  call_reply(call, &response.base);
}

static void start_container_service(const struct call* call) {
  const StartContainerServiceRequest* request =
      call_decode(call, &embervm__agent__v1__start_container_service_request__descriptor);
  if (request == NULL) {
    return;
  }
  struct text reason;
  text_clear(&reason);
  StartContainerServiceResponse response =
      EMBERVM__AGENT__V1__START_CONTAINER_SERVICE_RESPONSE__INIT;
  response.error_number = container_service_start(request->port, &reason);
  response.message = reason.data;
  call_reply(call, &response.base);
}

static void set_online_cpus(const struct call* call) {
  const SetOnlineCpusRequest* request =
      call_decode(call, &embervm__agent__v1__set_online_cpus_request__descriptor);
  if (request == NULL) {
    return;
  }
  if (request->count < 1 || request->count > AGENT_MAX_CPUS) {
    call_fail(call, TTRPC_INVALID_ARGUMENT, "count must be 1 to 256");
    return;
  }
  struct text reason;
  text_clear(&reason);
  SetOnlineCpusResponse response = EMBERVM__AGENT__V1__SET_ONLINE_CPUS_RESPONSE__INIT;
  response.error_number = cpus_set_online(request->count, &reason);
  response.message = reason.data;
  call_reply(call, &response.base);
}

static void mount_in_root(const struct call* call) {
  const MountInRootRequest* request =
      call_decode(call, &embervm__agent__v1__mount_in_root_request__descriptor);
  if (request == NULL) {
    return;
  }
  if (!root_is_ready()) {
    call_fail(call, TTRPC_FAILED_PRECONDITION, "no root yet: call SetUpRoot first");
    return;
  }
  const char* const wrong = root_mount_check(request);
  if (wrong != NULL) {
    call_fail(call, TTRPC_INVALID_ARGUMENT, wrong);
    return;
  }
  struct text reason;
  text_clear(&reason);
  MountInRootResponse response = EMBERVM__AGENT__V1__MOUNT_IN_ROOT_RESPONSE__INIT;
  response.error_number = root_mount(request, &reason);
  response.message = reason.data;
  call_reply(call, &response.base);
}

static void power_off(const struct call* call) {
  const PowerOffRequest* request =
      call_decode(call, &embervm__agent__v1__power_off_request__descriptor);
  if (request == NULL) {
    return;
  }
  const PowerOffResponse response = EMBERVM__AGENT__V1__POWER_OFF_RESPONSE__INIT;
  call_reply(call, &response.base);
  power_off_begin(request->grace_ms);
}

static void signal_process(const struct call* call) {
  const SignalRequest* request = call_decode(call, &embervm__agent__v1__signal_request__descriptor);
  if (request == NULL) {
    return;
  }
  if (request->signal < 1 || request->signal > kMaxSignal) {
    call_fail(call, TTRPC_INVALID_ARGUMENT, "signal must be 1 to 64");
    return;
  }
  SignalResponse response = EMBERVM__AGENT__V1__SIGNAL_RESPONSE__INIT;
  response.delivered = exec_signal(request->exec_id, request->signal, request->group);
  call_reply(call, &response.base);
}

static void resize_terminal(const struct call* call) {
  const ResizeRequest* request = call_decode(call, &embervm__agent__v1__resize_request__descriptor);
  if (request == NULL) {
    return;
  }
  if (request->rows > kMaxSide || request->cols > kMaxSide) {
    call_fail(call, TTRPC_INVALID_ARGUMENT, "rows and cols must be at most 65535");
    return;
  }
  ResizeResponse response = EMBERVM__AGENT__V1__RESIZE_RESPONSE__INIT;
  response.resized = exec_resize(request->exec_id, request->rows, request->cols);
  call_reply(call, &response.base);
}

const struct method server_methods[] = {
    {AGENT_SERVICE, "GetInfo", get_info},
    {AGENT_SERVICE, "SetUpRoot", set_up_root},
    {AGENT_SERVICE, "GetMemory", get_memory},
    {AGENT_SERVICE, "Restored", restored},
    {AGENT_SERVICE, "BindSlot", bind_slot},
    {AGENT_SERVICE, "UnbindSlot", unbind_slot},
    {AGENT_SERVICE, "StartContainerService", start_container_service},
    {AGENT_SERVICE, "SetOnlineCpus", set_online_cpus},
    {AGENT_SERVICE, "MountInRoot", mount_in_root},
    {AGENT_SERVICE, "PowerOff", power_off},
    {PROCESS_SERVICE, "Exec", exec_open},
    {PROCESS_SERVICE, "Signal", signal_process},
    {PROCESS_SERVICE, "Resize", resize_terminal},
    {FILES_SERVICE, "Stat", files_stat},
    {FILES_SERVICE, "ReadLink", files_read_link},
    {FILES_SERVICE, "MakeDirectory", files_make_directory},
    {FILES_SERVICE, "Remove", files_remove},
    {FILES_SERVICE, "Rename", files_rename},
    {FILES_SERVICE, "MakeSymlink", files_make_symlink},
    {FILES_SERVICE, "SetAttributes", files_set_attributes},
    {FILES_SERVICE, "Read", files_read},
    {FILES_SERVICE, "Write", files_write},
    {FILES_SERVICE, "List", files_list},
    {FILES_SERVICE, "RemoveTree", files_remove_tree},
    {FILES_SERVICE, "Copy", files_copy},
    {FILES_SERVICE, "Watch", files_watch},
    {NULL, NULL, NULL},
};
