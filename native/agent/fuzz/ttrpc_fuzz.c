// Any bytes on a connection: framing, the ttrpc envelope, and the decoding and
// checking of every message. Nothing is started or mounted: what acts on the
// machine is replaced below by what an empty machine would answer.
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../connection.h"
#include "../hotplug.h"
#include "../loop.h"
#include "../poweroff.h"
#include "../restored.h"
#include "../root.h"
#include "../root_mount.h"
#include "../spawn.h"

bool root_is_ready(void) { return true; }
const char* root_path(void) { return "/"; }

// A directory that has no etc/passwd.
int root_fd(void) {
  static int fd = -1;
  if (fd < 0) {
    fd = open("/proc/self/fdinfo", O_PATH | O_DIRECTORY | O_CLOEXEC);
  }
  return fd;
}

int root_null_fd(void) {
  static int fd = -1;
  if (fd < 0) {
    fd = open("/dev/null", O_RDWR | O_CLOEXEC);
  }
  return fd;
}

int root_set_up(const SetUpRootRequest* request, struct text* reason) {
  // Every string is read, so that a bad one is noticed.
  text_join(reason, "no disks: ", request->hostname, NULL);
  return TTRPC_INTERNAL;
}

int restored_apply(const RestoredRequest* request, struct text* reason) {
  text_join(reason, "not this clock: ", request->hostname, NULL);
  return TTRPC_INTERNAL;
}

const char* root_mount_check(const MountInRootRequest* request) {
  return request->target[0] == '/' ? NULL : "target must be absolute";
}

int root_mount(const MountInRootRequest* request, struct text* reason) {
  text_join(reason, "no mounts: ", request->target, NULL);
  return ENODEV;
}

int slot_bind(uint32_t slot, struct text* node, struct text* reason) {
  text_clear(node);
  text_join(reason, "no slots", NULL);
  return slot == 0 ? 0 : ENODEV;
}
int slot_unbind(uint32_t slot, struct text* reason) { return slot_bind(slot, reason, reason); }
int cpus_set_online(uint32_t count, struct text* reason) {
  return slot_bind(count, reason, reason);
}

// Without terminals: each of the fuzzer's would be one of this machine.
int root_terminals_fd(void) { return -1; }

void root_tear_down(void) {}
bool power_off_has_begun(void) { return false; }
void power_off_begin(uint32_t grace_ms) { (void)grace_ms; }
void power_off_children_gone(void) {}

struct spawn_result spawn_process(const struct spawn_request* request) {
  size_t bytes = strlen(request->cwd) + strlen(request->path);
  for (char* const* at = request->argv; *at != NULL; at++) {
    bytes += strlen(*at);
  }
  for (char* const* at = request->envp; *at != NULL; at++) {
    bytes += strlen(*at);
  }
  return (struct spawn_result){
      .pid = -1, .stage = SPAWN_EXEC, .error = bytes > 100000 ? E2BIG : ENOENT};
}

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

// Writes `size` bytes while the loop takes them and the answers are thrown away.
static void exchange(int fd, const uint8_t* data, size_t size) {
  char answers[65536];
  while (size > 0) {
    const ssize_t sent = send(fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent > 0) {
      data += sent;
      size -= (size_t)sent;
    } else if (errno != EAGAIN) {
      break;
    }
    loop_run_once(0);
    while (recv(fd, answers, sizeof(answers), MSG_DONTWAIT) > 0) {
    }
  }
  loop_run_once(0);
}

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  int ends[2];
  if (loop_start() < 0 ||
      socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) < 0) {
    abort();
  }
  if (connection_open(ends[0], NULL) == NULL) {
    abort();
  }
  // The first byte cuts the rest in two, so that frames also arrive in pieces.
  const size_t first = size == 0 ? 0 : (size - 1) * data[0] / 255;
  if (size > 0) {
    exchange(ends[1], data + 1, first);
    exchange(ends[1], data + 1 + first, size - 1 - first);
  }
  close(ends[1]);
  while (connection_count() > 0) {
    loop_run_once(0);
  }
  loop_stop();
  return 0;
}
