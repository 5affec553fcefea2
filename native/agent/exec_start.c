#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "arena.h"
#include "environment.h"
#include "exec_private.h"
#include "init.h"
#include "limits.h"
#include "root.h"
#include "spawn.h"
#include "users.h"

static bool fail(struct exec_failure* failure, ExecFailureKind kind, int error, const char* what,
                 const char* detail) {
  failure->kind = kind;
  failure->error = error;
  text_join(&failure->message, what, detail == NULL ? "" : ": ", detail == NULL ? "" : detail,
            NULL);
  return false;
}

static ExecFailureKind kind_of_resource(int error, ExecFailureKind otherwise) {
  switch (error) {
    case ENOMEM:
      return EXEC_FAILURE(OUT_OF_MEMORY);
    case E2BIG:
    case EAGAIN:
    case EMFILE:
    case ENFILE:
      return EXEC_FAILURE(RESOURCE_LIMIT);
    default:
      return otherwise;
  }
}

static ExecFailureKind kind_of_execve(int error) {
  switch (error) {
    case ENOENT:
    case ENOTDIR:
    case ELOOP:
    case ENAMETOOLONG:
      return EXEC_FAILURE(NOT_FOUND);
    case EACCES:
    case EPERM:
    case EISDIR:
      return EXEC_FAILURE(PERMISSION_DENIED);
    case ENOEXEC:
    case EINVAL:
    case ELIBBAD:
    case ETXTBSY:
      return EXEC_FAILURE(NOT_EXECUTABLE);
    default:
      return kind_of_resource(error, EXEC_FAILURE(UNSPECIFIED));
  }
}

static bool spawn_failed(struct exec_failure* failure, const struct spawn_result* result,
                         const struct spawn_request* request) {
  static const char* const kCalls[] = {
      [SPAWN_CLONE] = "clone",
      [SPAWN_NAMESPACE] = "setns",
      [SPAWN_SESSION] = "setsid",
      [SPAWN_STDIO] = "dup3",
      [SPAWN_TERMINAL] = "ioctl TIOCSCTTY",
      [SPAWN_LIMIT] = "prlimit",
      [SPAWN_ROOT] = "chroot",
      [SPAWN_RESTRICT] = "prctl",
      [SPAWN_GROUPS] = "setgroups",
      [SPAWN_GID] = "setresgid",
      [SPAWN_UID] = "setresuid",
      [SPAWN_CWD] = "chdir",
      [SPAWN_EXEC] = "execve",
  };
  const char* path = NULL;
  failure->error = result->error;
  switch (result->stage) {
    case SPAWN_LIMIT:
      failure->kind = EXEC_FAILURE(RESOURCE_LIMIT);
      break;
    case SPAWN_GROUPS:
    case SPAWN_GID:
    case SPAWN_UID:
      failure->kind = kind_of_resource(result->error, EXEC_FAILURE(BAD_USER));
      break;
    case SPAWN_TERMINAL:
      failure->kind = kind_of_resource(result->error, EXEC_FAILURE(PTY_FAILED));
      break;
    case SPAWN_CWD:
      failure->kind = kind_of_resource(result->error, EXEC_FAILURE(BAD_CWD));
      path = request->cwd;
      break;
    case SPAWN_EXEC:
      failure->kind = kind_of_execve(result->error);
      path = request->argv[0];
      break;
    default:
      failure->kind = kind_of_resource(result->error, EXEC_FAILURE(UNSPECIFIED));
      break;
  }
  text_failure(&failure->message, kCalls[result->stage], path, result->error);
  if (result->no_interpreter) {
    text_add(&failure->message, ": the file is there, its interpreter or loader is not");
  }
  return false;
}

// Ends of three pipes: ours and the child's. With a terminal all are the child's.
struct stdio {
  int ours[3];
  int childs[3];
};

static void close_all(const int* fds) {
  for (size_t i = 0; i < 3; i++) {
    if (fds[i] >= 0) {
      close(fds[i]);
    }
  }
}

static bool make_pipe(int* read_end, int* write_end, int* ours) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) < 0) {
    return false;
  }
  *read_end = ends[0];
  *write_end = ends[1];
  // Only our end: programs do not expect O_NONBLOCK on their stdio.
  return fcntl(*ours, F_SETFL, O_NONBLOCK) == 0;
}

static const struct stdio kNoStdio = {{-1, -1, -1}, {-1, -1, -1}};

static bool make_pipes(struct stdio* stdio, bool has_input, struct exec_failure* failure) {
  *stdio = kNoStdio;
  int* ours = stdio->ours;
  int* childs = stdio->childs;
  if ((!has_input || make_pipe(&childs[0], &ours[0], &ours[0])) &&
      make_pipe(&ours[1], &childs[1], &ours[1]) && make_pipe(&ours[2], &childs[2], &ours[2])) {
    return true;
  }
  const int error = errno;
  close_all(ours);
  close_all(childs);
  return fail(failure, kind_of_resource(error, EXEC_FAILURE(UNSPECIFIED)), error, "pipe2",
              strerror(error));
}

static bool make_terminal(struct stdio* stdio, struct exec* exec, const Terminal* wanted,
                          uid_t owner, struct exec_failure* failure) {
  *stdio = kNoStdio;
  const struct terminal_request request = {
      .rows = wanted->rows, .cols = wanted->cols, .stream = wanted->stream, .owner = owner};
  const int fd = terminal_open(&exec->terminal, &request, &failure->message);
  int error = fd < 0 ? errno : 0;
  for (size_t i = 0; error == 0 && i < 3; i++) {
    stdio->childs[i] = i == 0 ? fd : fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (stdio->childs[i] < 0) {
      error = errno;
      text_failure(&failure->message, "fcntl F_DUPFD_CLOEXEC", NULL, error);
    }
  }
  if (error == 0) {
    return true;
  }
  close_all(stdio->childs);
  terminal_close(&exec->terminal);
  failure->kind = kind_of_resource(error, EXEC_FAILURE(PTY_FAILED));
  failure->error = error;
  return false;
}

static bool check(const ExecStart* start, struct exec_failure* failure) {
  if (start->n_args == 0) {
    return fail(failure, EXEC_FAILURE(BAD_REQUEST), EINVAL, "args are empty", NULL);
  }
  if (!environment_is_valid(start->env, start->n_env)) {
    return fail(failure, EXEC_FAILURE(BAD_REQUEST), EINVAL, "an env entry is not \"NAME=value\"",
                NULL);
  }
  if (start->cwd[0] != '\0' && start->cwd[0] != '/') {
    return fail(failure, EXEC_FAILURE(BAD_CWD), EINVAL, "cwd is not an absolute path", start->cwd);
  }
  if (exec_id_in_use(start->exec_id)) {
    return fail(failure, EXEC_FAILURE(BAD_REQUEST), EEXIST, "exec_id is in use", NULL);
  }
  if (start->init && init_state() != INIT_NONE) {
    return fail(failure, EXEC_FAILURE(BAD_REQUEST), EEXIST, "there is an init already", NULL);
  }
  return true;
}

static bool read_limits(const ExecStart* start, struct spawn_limit* limits,
                        struct exec_failure* failure) {
  if (start->n_rlimits > AGENT_MAX_RLIMITS) {
    return fail(failure, EXEC_FAILURE(BAD_REQUEST), EINVAL, "more limits than there are", NULL);
  }
  for (size_t i = 0; i < start->n_rlimits; i++) {
    const Rlimit* limit = start->rlimits[i];
    if (limit->resource >= AGENT_MAX_RLIMITS || limit->soft > limit->hard) {
      return fail(failure, EXEC_FAILURE(RESOURCE_LIMIT), EINVAL,
                  "a limit is unknown, or its soft value above the hard one", NULL);
    }
    limits[i] = (struct spawn_limit){(int)limit->resource, {limit->soft, limit->hard}};
  }
  return true;
}

static char** terminated(char** strings, size_t count) {
  char** copy = arena_allocate((count + 1) * sizeof(*copy));
  if (copy != NULL) {
    memcpy(copy, strings, count * sizeof(*copy));
    copy[count] = NULL;
  }
  return copy;
}

static bool needs_home(const ExecStart* start) {
  return start->cwd[0] == '\0' || environment_get(start->env, start->n_env, "HOME") == NULL ||
         environment_get(start->env, start->n_env, "USER") == NULL ||
         environment_get(start->env, start->n_env, "LOGNAME") == NULL;
}

bool exec_start_process(struct exec* exec, const ExecStart* start, struct exec_failure* failure) {
  // Large and needed only here; the agent has one thread.
  static struct user user;
  if (!check(start, failure)) {
    return false;
  }
  struct spawn_limit limits[AGENT_MAX_RLIMITS];
  if (!read_limits(start, limits, failure)) {
    return false;
  }
  struct text reason;
  if (!users_resolve(root_fd(), start->user, needs_home(start), &user, &reason)) {
    return fail(failure, EXEC_FAILURE(BAD_USER), 0, start->user, reason.data);
  }
  const size_t limit = AGENT_ARENA_LIMIT / sizeof(char*);
  char** argv = start->n_args < limit ? terminated(start->args, start->n_args) : NULL;
  char** envp = start->n_env < limit ? environment_build(start->env, start->n_env, &user) : NULL;
  if (argv == NULL || envp == NULL) {
    return fail(failure, EXEC_FAILURE(OUT_OF_MEMORY), ENOMEM, "no memory for args and env", NULL);
  }
  size_t envp_count = start->n_env;
  while (envp[envp_count] != NULL) {
    envp_count++;
  }

  struct stdio stdio;
  if (start->terminal != NULL ? !make_terminal(&stdio, exec, start->terminal, user.uid, failure)
                              : !make_pipes(&stdio, start->stdin, failure)) {
    return false;
  }
  struct spawn_request request = {
      .root = root_path(),
      .cwd = start->cwd[0] != '\0' ? start->cwd : user.home,
      .cwd_optional = start->cwd[0] == '\0',
      .argv = argv,
      .envp = envp,
      .path = environment_get(envp, envp_count, "PATH"),
      .user = &user,
      .stdio = {stdio.childs[0] >= 0 ? stdio.childs[0] : root_null_fd(), stdio.childs[1],
                stdio.childs[2]},
      .terminal = start->terminal != NULL,
      .limits = limits,
      .limit_count = start->n_rlimits,
      .restricted = start->restricted,
      .namespaces = start->init ? SPAWN_AS_INIT : SPAWN_SHARED,
  };
  init_join(&request);
  const struct spawn_result result = spawn_process(&request);
  close_all(stdio.childs);
  if (result.pid < 0) {
    close_all(stdio.ours);
    terminal_close(&exec->terminal);
    return spawn_failed(failure, &result, &request);
  }
  if (start->init && !init_adopt(result.pid, argv[0])) {
    const int error = errno;
    kill(result.pid, SIGKILL);
    close_all(stdio.ours);
    terminal_close(&exec->terminal);
    return fail(failure, EXEC_FAILURE(RESOURCE_LIMIT), error, "pidfd_open", strerror(error));
  }
  exec->id = start->exec_id;
  exec->pid = result.pid;
  // A terminal hangs up with its stream.
  exec->is_init = start->init && start->terminal == NULL;
  exec->input.fd = stdio.ours[0];
  exec->outputs[EXEC_STDOUT].watch.fd = stdio.ours[1];
  exec->outputs[EXEC_STDERR].watch.fd = stdio.ours[2];
  return true;
}
