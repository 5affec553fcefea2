// The program that runs containers: PID 1 starts it when the host first asks, with
// the port of the host to dial. It is a program of its own because the messages of
// the OCI configuration would double the size of PID 1, which every boot loads.
#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../control.h"
#include "../log.h"
#include "../loop.h"
#include "../text.h"
#include "mount_calls.h"
#include "process.h"

// --- Children

static void on_signal(struct loop_watch* watch, uint32_t events) {
  (void)events;
  struct signalfd_siginfo info;
  if (read(watch->fd, &info, sizeof(info)) <= 0) {
    return;
  }
  int status;
  for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
    // Others are orphans of containers without a PID namespace.
    process_reaped(pid, status);
  }
}

static struct loop_watch signals = {.ready = on_signal, .fd = -1};

static bool watch_children(void) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  sigaddset(&set, SIGPIPE);
  if (sigprocmask(SIG_BLOCK, &set, NULL) < 0) {
    return false;
  }
  sigdelset(&set, SIGPIPE);
  signals.fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
  prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  return signals.fd >= 0 && loop_watch_set(&signals, EPOLLIN) == 0;
}

// --- Mounts of its own

// The first root of a machine cannot be pivoted away from: it has no parent. A copy
// of it laid over it can.
static bool lay_root_over(void) {
  const int tree = tree_clone(AT_FDCWD, "/", kTreeRecursive);
  if (tree < 0 || tree_attach(tree, AT_FDCWD, "/") < 0 || fchdir(tree) < 0 || chroot(".") < 0) {
    return false;
  }
  close(tree);
  return true;
}

static void mount_own(const char* type, const char* target, const char* data) {
  mkdir(target, 0755);
  if (mount(type, target, type, MS_NOSUID | MS_NODEV | MS_NOEXEC, data) < 0 && errno != EBUSY) {
    log_error(target, errno);
  }
}

static bool set_up_mounts(void) {
  if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
      !lay_root_over()) {
    return false;
  }
  mount_own("proc", "/proc", NULL);
  mount_own("sysfs", "/sys", NULL);
  mount_own("cgroup2", "/sys/fs/cgroup", "nsdelegate");
  mkdir("/run", 0755);
  return true;
}

int main(int argc, char** argv) {
  uint64_t port = 0;
  if (argc != 2 || !text_number(argv[1], strlen(argv[1]), UINT32_MAX, &port)) {
    log_error("containers: usage: containers <port>", 0);
    return 2;
  }
  if (loop_start() < 0 || !watch_children() || !set_up_mounts()) {
    log_error("containers: start", errno);
    return 1;
  }
  const struct sockaddr_vm vsock = {
      .svm_family = AF_VSOCK, .svm_port = (unsigned)port, .svm_cid = VMADDR_CID_HOST};
  const struct control_address host = {(const struct sockaddr*)(const void*)&vsock, sizeof(vsock)};
  if (control_start(control_dial(&host), &host, NULL) < 0) {
    log_error("containers: dial the host", errno);
  }
  for (;;) {
    loop_run_once(-1);
  }
}
