#include "reaper.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "container_service.h"
#include "exec.h"
#include "init.h"
#include "loop.h"
#include "poweroff.h"

static void on_signal(struct loop_watch* watch, uint32_t events) {
  (void)events;
  struct signalfd_siginfo info;
  // Which child it was is not asked: signals of one kind merge.
  if (read(watch->fd, &info, sizeof(info)) > 0 && !reaper_collect()) {
    power_off_children_gone();
  }
}

static struct loop_watch signals = {.ready = on_signal, .fd = -1};

int reaper_start(void) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  // A stdin pipe whose reader is gone shall be EPIPE.
  sigaddset(&set, SIGPIPE);
  if (sigprocmask(SIG_BLOCK, &set, NULL) < 0) {
    return -1;
  }
  sigdelset(&set, SIGPIPE);
  signals.fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
  return signals.fd < 0 ? -1 : loop_watch_set(&signals, EPOLLIN);
}

void reaper_stop(void) { loop_watch_close(&signals); }

bool reaper_collect(void) {
  for (;;) {
    int status;
    const pid_t pid = waitpid(-1, &status, WNOHANG);
    if (pid > 0) {
      init_reaped(pid);
      container_service_reaped(pid);
      exec_reaped(pid, status);
    } else if (pid == 0) {
      return true;
    } else if (errno != EINTR) {
      return false;
    }
  }
}
