#include "init.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "root.h"

// SIGRTMIN+4 as its C library counts: "halt and power off" to systemd(1), to which
// SIGTERM means "start over".
enum { kSystemdPowerOff = 38 };

static struct {
  enum init_state state;
  pid_t pid;
  bool is_systemd;
  // Pidfds.
  int process;
  int own;
} init = {.process = -1, .own = -1};

static int open_pidfd(pid_t pid) { return (int)syscall(SYS_pidfd_open, pid, 0); }

enum init_state init_state(void) { return init.state; }

bool init_adopt(pid_t pid, const char* program) {
  init.own = open_pidfd(getpid());
  init.process = open_pidfd(pid);
  if (init.own < 0 || init.process < 0) {
    return false;
  }
  const char* slash = strrchr(program, '/');
  init.is_systemd = strcmp(slash == NULL ? program : slash + 1, "systemd") == 0;
  init.pid = pid;
  init.state = INIT_RUNNING;
  return true;
}

void init_reaped(pid_t pid) {
  if (init.state == INIT_RUNNING && init.pid == pid) {
    init.state = INIT_ENDED;
    close(init.process);
    init.process = -1;
  }
}

void init_join(struct spawn_request* request) {
  if (init.state == INIT_RUNNING) {
    request->namespaces = SPAWN_WITH_INIT;
    request->init = init.process;
    request->own = init.own;
  }
}

bool init_shut_down(void) {
  return init.state == INIT_RUNNING && init.is_systemd && kill(init.pid, kSystemdPowerOff) == 0;
}
