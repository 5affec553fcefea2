#include "child.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../inroot.h"
#include "../users.h"
#include "files.h"
#include "hooks.h"
#include "mount_calls.h"

// Where a child keeps what it needs; all above is closed.
enum { kSync = 3, kFirst = 4, kOthers = 5, kAbove = 64, kExitFailed = 127 };

// setns(2), which <sched.h> declares and whose header clashes with <linux/sched.h>.
static int join_namespace(int fd, int flags) { return (int)syscall(SYS_setns, fd, flags); }

// --- Reports

static _Noreturn void leave(const struct report* report) {
  send(kSync, report, sizeof(*report), MSG_NOSIGNAL);
  _exit(kExitFailed);
}

_Noreturn void child_fail(const char* call, const char* path, int error) {
  struct report report = {.kind = REPORT_FAILED};
  struct text text;
  text_failure(&text, call, path, error);
  memcpy(report.message, text.data, text.length + 1);
  leave(&report);
}

_Noreturn void child_refuse(const char* why, const char* what) {
  struct report report = {.kind = REPORT_FAILED, .callers_fault = true};
  struct text text;
  text_join(&text, why, what, NULL);
  memcpy(report.message, text.data, text.length + 1);
  leave(&report);
}

// The service, or its end, says how it goes on.
static void await_order(char wanted, struct child* child) {
  struct {
    char order;
    pid_t pid;
  } message;
  ssize_t got;
  do {
    got = recv(kSync, &message, sizeof(message), 0);
  } while (got < 0 && errno == EINTR);
  if (got != (ssize_t)sizeof(message) || message.order != wanted) {
    _exit(kExitFailed);
  }
  child->pid = message.pid;
}

// --- Descriptors

static int lift(int fd) { return fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, kAbove); }

// Standard input and output, the socket, and nothing else of the service.
static void keep_own_descriptors(const struct child_request* request) {
  const int sync = lift(request->sync);
  const int first = lift(request->first);
  for (int i = 0; i < 3; i++) {
    if (request->stdio[i] >= 0 && dup2(request->stdio[i], i) < 0) {
      _exit(kExitFailed);
    }
  }
  if (dup3(sync, kSync, O_CLOEXEC) < 0 || (first >= 0 && dup3(first, kFirst, O_CLOEXEC) < 0)) {
    _exit(kExitFailed);
  }
  syscall(SYS_close_range, first >= 0 ? kOthers : kFirst, ~0U, 0);
}

// --- Namespaces

static void join_others(const struct container_spec* spec) {
  for (size_t i = 0; i < spec->join_count; i++) {
    const struct join* join = &spec->joins[i];
    // The service has joined this one for us: it counts for children alone.
    if (join->flag == CLONE_NEWPID) {
      continue;
    }
    const int fd = open(join->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
      child_fail("open", join->path, errno);
    }
    if (join_namespace(fd, join->flag) < 0) {
      child_fail("setns", join->path, errno);
    }
    close(fd);
  }
}

static void raise_loopback(void) {
  const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
  if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request) < 0) {
    child_fail("bring up the interface", "lo", errno);
  }
  close(fd);
}

static void write_sysctls(const struct container_spec* spec) {
  const int directory = open("/proc/sys", O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (directory < 0 && spec->sysctl_count > 0) {
    child_fail("open", "/proc/sys", errno);
  }
  for (size_t i = 0; i < spec->sysctl_count; i++) {
    struct text reason;
    const int error = file_write(directory, spec->sysctls[i].path, spec->sysctls[i].value, &reason);
    if (error != 0) {
      child_fail("set linux.sysctl", spec->sysctls[i].path, error);
    }
  }
  if (directory >= 0) {
    close(directory);
  }
}

static void set_names(const struct container_spec* spec) {
  if (spec->hostname[0] != '\0' && sethostname(spec->hostname, strlen(spec->hostname)) < 0) {
    child_fail("sethostname", spec->hostname, errno);
  }
}

// Before the service's /proc is out of sight. Ours is inherited, so 0 is written too.
static void set_oom_score(const struct process_spec* process) {
  struct text value;
  text_clear(&value);
  if (process->oom_score < 0) {
    text_add(&value, "-");
  }
  text_add_number(&value, (uint64_t)(process->oom_score < 0 ? -(int64_t)process->oom_score
                                                            : process->oom_score));
  struct text reason;
  const int error = file_write(AT_FDCWD, "/proc/self/oom_score_adj", value.data, &reason);
  if (error != 0) {
    child_fail("set process.oomScoreAdj", value.data, error);
  }
}

// --- Terminal

static void send_terminal(int master) {
  struct report report = {.kind = REPORT_TERMINAL};
  struct iovec bytes = {&report, sizeof(report)};
  union {
    struct cmsghdr header;
    char space[CMSG_SPACE(sizeof(int))];
  } control = {0};
  struct msghdr message = {.msg_iov = &bytes,
                           .msg_iovlen = 1,
                           .msg_control = control.space,
                           .msg_controllen = sizeof(control.space)};
  struct cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(header), &master, sizeof(int));
  if (sendmsg(kSync, &message, MSG_NOSIGNAL) < 0) {
    _exit(kExitFailed);
  }
}

#ifndef TIOCGPTPEER
#define TIOCGPTPEER _IO('T', 0x41)
#endif

void child_open_terminal(const struct child* child) {
  const struct process_spec* process = child->request->process;
  const int master = open("/dev/pts/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
  if (master < 0) {
    child_fail("open (process.terminal needs a devpts mount)", "/dev/pts/ptmx", errno);
  }
  const int unlocked = 0;
  const struct winsize size = {.ws_row = process->rows, .ws_col = process->columns};
  if (ioctl(master, TIOCSPTLCK, &unlocked) < 0 || ioctl(master, TIOCSWINSZ, &size) < 0) {
    child_fail("set up the terminal", NULL, errno);
  }
  const int slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (slave < 0) {
    child_fail("open the terminal", NULL, errno);
  }
  if (process->uid != 0 && fchown(slave, process->uid, (gid_t)-1) < 0) {
    child_fail("chown the terminal", NULL, errno);
  }
  send_terminal(master);
  close(master);
  for (int fd = 0; fd < 3; fd++) {
    if (dup2(slave, fd) < 0) {
      child_fail("dup2", NULL, errno);
    }
  }
  close(slave);
  if (ioctl(STDIN_FILENO, TIOCSCTTY, 0) < 0) {
    child_fail("ioctl TIOCSCTTY", NULL, errno);
  }
}

// --- The identity and the end of privileges

static void drop_bounding(const struct capabilities* wanted) {
  for (unsigned long capability = 0; capability < 64; capability++) {
    if ((wanted->bounding >> capability & 1) == 0 &&
        prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0) {
      if (errno == EINVAL) {
        return;
      }
      child_fail("prctl PR_CAPBSET_DROP", NULL, errno);
    }
  }
}

static void set_capabilities(const struct capabilities* wanted) {
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct data[2];
  for (size_t i = 0; i < 2; i++) {
    data[i].effective = (uint32_t)(wanted->effective >> (32 * i));
    data[i].permitted = (uint32_t)(wanted->permitted >> (32 * i));
    data[i].inheritable = (uint32_t)(wanted->inheritable >> (32 * i));
  }
  if (syscall(SYS_capset, &header, data) < 0) {
    child_fail("capset", NULL, errno);
  }
  for (unsigned long capability = 0; capability < 64; capability++) {
    if ((wanted->ambient >> capability & 1) != 0 &&
        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0) < 0) {
      child_fail("prctl PR_CAP_AMBIENT_RAISE", NULL, errno);
    }
  }
}

// By the container's own files: the root is entered.
static void find_user(struct process_spec* process) {
  static struct user user;
  struct text reason;
  const int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (!users_resolve(root, process->user, false, &user, &reason)) {
    child_refuse("process.user: ", reason.data);
  }
  close(root);
  process->uid = user.uid;
  process->gid = user.gid;
  process->groups = user.groups;
  process->group_count = user.group_count;
}

static void set_identity(const struct process_spec* process) {
  drop_bounding(&process->capabilities);
  // The change of the user must not take what capset sets below.
  if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0 ||
      syscall(SYS_setgroups, process->group_count, process->groups) < 0) {
    child_fail("setgroups", NULL, errno);
  }
  if (syscall(SYS_setresgid, process->gid, process->gid, process->gid) < 0) {
    child_fail("setgid", NULL, errno);
  }
  if (syscall(SYS_setresuid, process->uid, process->uid, process->uid) < 0) {
    child_fail("setuid", NULL, errno);
  }
  prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0);
}

static void load_filter(const struct child_request* request) {
  const struct container_spec* container = request->container;
  const struct sock_filter* filter = container != NULL ? container->filter : request->filter;
  const size_t length = container != NULL ? container->filter_length : request->filter_length;
  if (filter == NULL) {
    return;
  }
  struct {
    unsigned short length;
    const struct sock_filter* filter;
  } program = {(unsigned short)length, filter};
  const unsigned flags = container != NULL ? container->filter_flags : request->filter_flags;
  if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program) < 0) {
    child_fail("seccomp", NULL, errno);
  }
}

static void give_up_privileges(const struct child_request* request) {
  const struct process_spec* process = request->process;
  if (process->no_new_privileges && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) {
    child_fail("prctl PR_SET_NO_NEW_PRIVS", NULL, errno);
  }
  // Without it the filter needs a capability that goes below.
  if (!process->no_new_privileges) {
    load_filter(request);
  }
  set_identity(process);
  set_capabilities(&process->capabilities);
  if (chdir(process->directory) < 0) {
    child_fail("chdir to process.cwd", process->directory, errno);
  }
  if (process->no_new_privileges) {
    load_filter(request);
  }
}

// --- The program

static void execute(const struct process_spec* process) {
  static char candidate[AGENT_PATH_SIZE];
  char* const* arguments = process->arguments;
  const char* name = arguments[0];
  if (strchr(name, '/') != NULL) {
    execve(name, arguments, process->environment);
    return;
  }
  const size_t name_length = strlen(name);
  bool denied = false;
  for (const char* at = process->path; at != NULL;) {
    const char* end = strchr(at, ':');
    const size_t length = end == NULL ? strlen(at) : (size_t)(end - at);
    if (length > 0 && length + 1 + name_length < sizeof(candidate)) {
      memcpy(candidate, at, length);
      candidate[length] = '/';
      memcpy(candidate + length + 1, name, name_length + 1);
      if (access(candidate, X_OK) == 0) {
        execve(candidate, arguments, process->environment);
      }
      denied |= errno == EACCES;
    }
    at = end == NULL ? NULL : end + 1;
  }
  errno = denied ? EACCES : ENOENT;
}

static void reset_signals(void) {
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  // What is ignored stays so in the program.
  signal(SIGPIPE, SIG_DFL);
}

static void set_limits(const struct process_spec* process) {
  for (size_t i = 0; i < process->limit_count; i++) {
    if (prlimit(0, process->limits[i].resource, &process->limits[i].value, NULL) < 0) {
      child_fail("prlimit", NULL, errno);
    }
  }
}

static void run_hooks(const struct child* child, OciHook** hooks, size_t count,
                      const char* status) {
  const struct hook_state state = {.id = child->request->id,
                                   .status = status,
                                   .pid = child->pid,
                                   .root = child->request->container->root};
  struct text reason;
  if (!hooks_run(hooks, count, &state, &reason)) {
    child_refuse(reason.data, "");
  }
}

static void set_up_container(struct child* child) {
  const struct child_request* request = child->request;
  const struct container_spec* spec = request->container;
  const Grpc__Hooks* hooks = spec->hooks;
  join_others(spec);
  if ((spec->namespaces & CLONE_NEWCGROUP) != 0 && syscall(SYS_unshare, CLONE_NEWCGROUP) < 0) {
    child_fail("unshare", NULL, errno);
  }
  if ((spec->namespaces & CLONE_NEWNET) != 0) {
    raise_loopback();
  }
  set_names(spec);
  write_sysctls(spec);
  if (hooks != NULL && hooks->n_createcontainer > 0) {
    run_hooks(child, hooks->createcontainer, hooks->n_createcontainer, "creating");
  }
  rootfs_enter(child);
}

static void join_first(const struct child_request* request) {
  if (join_namespace(kFirst, request->first_namespaces) < 0) {
    child_fail("setns", NULL, errno);
  }
  close(kFirst);
}

static _Noreturn void run(struct child* child) {
  const struct child_request* request = child->request;
  struct process_spec process = *request->process;
  keep_own_descriptors(request);
  setsid();
  umask(0);
  if (request->waits_for_hooks) {
    await_order(ORDER_SET_UP, child);
  }
  set_oom_score(&process);
  if (request->container != NULL) {
    set_up_container(child);
  } else {
    join_first(request);
  }
  if (process.user != NULL) {
    find_user(&process);
  }
  struct child_request with_user = *request;
  with_user.process = &process;
  const struct child in_container = {&with_user, child->pid};
  if (process.terminal) {
    child_open_terminal(&in_container);
  }
  if (request->container != NULL) {
    rootfs_seal(child);
    const struct report ready = {.kind = REPORT_READY};
    if (send(kSync, &ready, sizeof(ready), MSG_NOSIGNAL) < 0) {
      _exit(kExitFailed);
    }
    await_order(ORDER_START, child);
    const Grpc__Hooks* hooks = request->container->hooks;
    if (hooks != NULL && hooks->n_startcontainer > 0) {
      run_hooks(child, hooks->startcontainer, hooks->n_startcontainer, "created");
    }
  }
  umask(0022);
  set_limits(&process);
  reset_signals();
  give_up_privileges(&with_user);
  execute(&process);
  child_fail("execve", process.arguments[0], errno);
}

static pid_t fork_into(const struct child_request* request) {
  int flags = 0;
  if (request->container != NULL) {
    // That of control groups is rooted where its maker is: the child makes it.
    flags = request->container->namespaces & ~CLONE_NEWCGROUP;
  }
  struct clone_args arguments = {
      .flags = (uint64_t)(unsigned)flags | (request->cgroup >= 0 ? CLONE_INTO_CGROUP : 0),
      .exit_signal = SIGCHLD,
      .cgroup = request->cgroup >= 0 ? (uint64_t)(unsigned)request->cgroup : 0,
  };
  return (pid_t)syscall(SYS_clone3, &arguments, sizeof(arguments));
}

pid_t child_start(const struct child_request* request) {
  // The PID namespace of children is joined by their parent, which goes back then.
  __attribute__((cleanup(close_descriptor))) const int own =
      request->pid_namespace >= 0 ? (int)syscall(SYS_pidfd_open, getpid(), 0) : -1;
  if (request->pid_namespace >= 0 &&
      (own < 0 || join_namespace(request->pid_namespace, CLONE_NEWPID) < 0)) {
    return -1;
  }
  const pid_t pid = fork_into(request);
  if (pid == 0) {
    struct child child = {.request = request};
    run(&child);
  }
  const int error = errno;
  if (own >= 0) {
    join_namespace(own, CLONE_NEWPID);
  }
  errno = error;
  return pid;
}
