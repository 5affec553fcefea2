#include "spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "restrict.h"

// The child runs in our memory while we sleep in clone: it must not return from
// its stack frame, nor take a lock, nor use libc functions that keep state. The
// raw system calls below are that rule, and so is leaving by SYS_exit.

enum { kChildStack = 16 * 1024, kSignalMaskBytes = 8 };

static uint8_t child_stack[kChildStack] __attribute__((aligned(64)));
static char candidate[AGENT_PATH_SIZE];

struct child {
  const struct spawn_request* request;
  // The agent's own identity is already what was asked for.
  bool keep_identity;
  // Of the child, read by the parent.
  volatile enum spawn_stage stage;
  volatile int error;
  volatile bool no_interpreter;
};

static bool call_failed(long result) { return result < 0; }

static bool set_identity(struct child* child) {
  const struct user* user = child->request->user;
  if (child->keep_identity) {
    return true;
  }
  child->stage = SPAWN_GROUPS;
  if (call_failed(syscall(SYS_setgroups, user->group_count, user->groups))) {
    return false;
  }
  child->stage = SPAWN_GID;
  if (call_failed(syscall(SYS_setresgid, user->gid, user->gid, user->gid))) {
    return false;
  }
  child->stage = SPAWN_UID;
  return !call_failed(syscall(SYS_setresuid, user->uid, user->uid, user->uid));
}

// Returns with errno of the failed execve; ENOENT for a program that exists
// means that its interpreter does not.
static void execute(struct child* child, const char* path) {
  const struct spawn_request* request = child->request;
  syscall(SYS_execve, path, request->argv, request->envp);
  const int error = errno;
  if (error == ENOENT && syscall(SYS_faccessat, AT_FDCWD, path, F_OK) == 0) {
    child->no_interpreter = true;
  }
  errno = error;
}

// As execvp searches, but a script without "#!" is an error and not a shell's.
static void search_and_execute(struct child* child) {
  const char* name = child->request->argv[0];
  const size_t name_length = strlen(name);
  bool denied = false;
  errno = ENOENT;
  for (const char* at = child->request->path; at != NULL;) {
    const char* end = strchr(at, ':');
    const size_t length = end == NULL ? strlen(at) : (size_t)(end - at);
    if (length + 1 + name_length < sizeof(candidate)) {
      memcpy(candidate, at, length);
      // An empty element is the current directory.
      size_t slash = length;
      if (length > 0) {
        candidate[slash++] = '/';
      }
      memcpy(candidate + slash, name, name_length + 1);
      // Far cheaper than an execve that fails: that one sets up an address space.
      if (syscall(SYS_faccessat, AT_FDCWD, candidate, X_OK) == 0) {
        execute(child, candidate);
      }
      if (errno == EACCES) {
        denied = true;
      } else if ((errno != ENOENT && errno != ENOTDIR) || child->no_interpreter) {
        return;
      }
    }
    at = end == NULL ? NULL : end + 1;
  }
  errno = denied ? EACCES : ENOENT;
}

static bool enter_namespaces(const struct spawn_request* request) {
  switch (request->namespaces) {
    case SPAWN_AS_INIT:
      // What init mounts is nobody else's, and what it unmounts neither.
      return !call_failed(syscall(SYS_mount, NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
    case SPAWN_WITH_INIT:
      return !call_failed(syscall(SYS_setns, request->init, CLONE_NEWNS));
    default:
      return true;
  }
}

static bool prepare(struct child* child) {
  const struct spawn_request* request = child->request;
  child->stage = SPAWN_NAMESPACE;
  if (!enter_namespaces(request)) {
    return false;
  }
  child->stage = SPAWN_SESSION;
  if (call_failed(syscall(SYS_setsid))) {
    return false;
  }
  // Static: nothing on the shared stack has its address taken.
  static const uint64_t no_signals = 0;
  if (call_failed(syscall(SYS_rt_sigprocmask, SIG_SETMASK, &no_signals, NULL, kSignalMaskBytes))) {
    return false;
  }
  child->stage = SPAWN_STDIO;
  for (int fd = 0; fd < 3; fd++) {
    if (call_failed(syscall(SYS_dup3, request->stdio[fd], fd, 0))) {
      return false;
    }
  }
  child->stage = SPAWN_TERMINAL;
  if (request->terminal && call_failed(syscall(SYS_ioctl, STDIN_FILENO, TIOCSCTTY, 0))) {
    return false;
  }
  child->stage = SPAWN_LIMIT;
  for (size_t i = 0; i < request->limit_count; i++) {
    const struct spawn_limit* limit = &request->limits[i];
    if (call_failed(syscall(SYS_prlimit64, 0, limit->resource, &limit->value, NULL))) {
      return false;
    }
  }
  child->stage = SPAWN_ROOT;
  if (call_failed(syscall(SYS_chroot, request->root))) {
    return false;
  }
  // An init has processes of its own to see.
  if (request->namespaces == SPAWN_AS_INIT &&
      call_failed(
          syscall(SYS_mount, "proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL))) {
    return false;
  }
  child->stage = SPAWN_RESTRICT;
  if (request->restricted && !restrict_privileges()) {
    return false;
  }
  if (!set_identity(child)) {
    return false;
  }
  child->stage = SPAWN_CWD;
  if (call_failed(syscall(SYS_chdir, request->cwd))) {
    return request->cwd_optional && !call_failed(syscall(SYS_chdir, "/"));
  }
  return true;
}

static int run_child(void* argument) {
  struct child* child = argument;
  if (prepare(child)) {
    child->stage = SPAWN_EXEC;
    const char* program = child->request->argv[0];
    if (program[0] == '\0') {
      errno = ENOENT;
    } else if (strchr(program, '/') != NULL) {
      execute(child, program);
    } else {
      search_and_execute(child);
    }
  }
  child->error = errno;
  syscall(SYS_exit, 127);
  return 127;
}

// PID 1 starts as 0:0 without groups; three credential changes are saved then.
static bool has_identity(const struct user* user) {
  static int plain = -1;
  if (plain < 0) {
    plain = getuid() == 0 && getgid() == 0 && getgroups(0, NULL) == 0;
  }
  return plain == 1 && user->uid == 0 && user->gid == 0 && user->group_count == 0;
}

static pid_t start_child(struct child* child) {
  const struct spawn_request* request = child->request;
  int flags = CLONE_VM | CLONE_VFORK | SIGCHLD;
  if (request->namespaces == SPAWN_AS_INIT) {
    flags |= CLONE_NEWPID | CLONE_NEWNS;
  }
  const bool join = request->namespaces == SPAWN_WITH_INIT;
  // A pidfd stands for the namespaces of its process. This one changes for the children to come.
  if (join && setns(request->init, CLONE_NEWPID) < 0) {
    return -1;
  }
  const pid_t pid = clone(run_child, child_stack + sizeof(child_stack), flags, child);
  const int error = errno;
  if (join) {
    setns(request->own, CLONE_NEWPID);
  }
  errno = error;
  return pid;
}

struct spawn_result spawn_process(const struct spawn_request* request) {
  struct child child = {.request = request, .keep_identity = has_identity(request->user)};
  const pid_t pid = start_child(&child);
  if (pid < 0) {
    return (struct spawn_result){.pid = -1, .stage = SPAWN_CLONE, .error = errno};
  }
  if (child.error == 0) {
    return (struct spawn_result){.pid = pid};
  }
  while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
  }
  return (struct spawn_result){.pid = -1,
                               .stage = child.stage,
                               .error = child.error,
                               .no_interpreter = child.no_interpreter};
}
