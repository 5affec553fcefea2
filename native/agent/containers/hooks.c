#include "hooks.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../arena.h"
#include "files.h"

enum { kMsPerSecond = 1000, kExecFailed = 127 };

// Ids and paths have no character that JSON would escape, but paths of the root may.
static void add_escaped(struct text* to, const char* from) {
  static const char digits[] = "0123456789abcdef";
  for (const unsigned char* at = (const unsigned char*)from; *at != '\0'; at++) {
    char piece[7] = {(char)*at, '\0'};
    if (*at == '"' || *at == '\\') {
      memcpy(piece, (char[]){'\\', (char)*at, '\0'}, 3);
    } else if (*at < ' ') {
      memcpy(piece, "\\u00", 4);
      piece[4] = digits[*at >> 4];
      piece[5] = digits[*at & 15];
      piece[6] = '\0';
    }
    text_add(to, piece);
  }
}

static int state_file(const struct hook_state* state) {
  struct text json;
  text_join(&json, "{\"ociVersion\":\"1.0.2\",\"id\":\"", state->id, "\",\"status\":\"",
            state->status, "\",\"pid\":", NULL);
  text_add_number(&json, (uint64_t)state->pid);
  text_add(&json, ",\"bundle\":\"");
  // The directory that has the root.
  struct text bundle;
  text_join(&bundle, state->root, NULL);
  char* slash = strrchr(bundle.data, '/');
  if (slash != NULL && slash != bundle.data) {
    *slash = '\0';
  }
  add_escaped(&json, bundle.data);
  text_add(&json, "\"}");
  const int fd = memfd_create("state", MFD_CLOEXEC);
  if (fd >= 0 && (write(fd, json.data, json.length) < 0 || lseek(fd, 0, SEEK_SET) < 0)) {
    close(fd);
    return -1;
  }
  return fd;
}

// The path again when no arguments are given; NULL at the end.
static char** arguments_of(const OciHook* hook) {
  const size_t count = hook->n_args == 0 ? 1 : hook->n_args;
  char** arguments = arena_allocate((count + 1) * sizeof(char*));
  if (arguments != NULL) {
    arguments[0] = hook->path;
    for (size_t i = 0; i < hook->n_args; i++) {
      arguments[i] = hook->args[i];
    }
    arguments[count] = NULL;
  }
  return arguments;
}

static char** environment_of(const OciHook* hook) {
  char** entries = arena_allocate((hook->n_env + 1) * sizeof(char*));
  if (entries != NULL) {
    for (size_t i = 0; i < hook->n_env; i++) {
      entries[i] = hook->env[i];
    }
    entries[hook->n_env] = NULL;
  }
  return entries;
}

static _Noreturn void execute(const OciHook* hook, char** arguments, char** environment,
                              int state) {
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  const int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
  dup2(state, STDIN_FILENO);
  if (nothing >= 0) {
    dup2(nothing, STDOUT_FILENO);
    dup2(nothing, STDERR_FILENO);
  }
  setsid();
  execve(hook->path, arguments, environment);
  _exit(kExecFailed);
}

static bool wait_for(pid_t pid, int64_t seconds, int* status) {
  __attribute__((cleanup(close_descriptor))) const int process =
      (int)syscall(SYS_pidfd_open, pid, 0);
  struct pollfd ended = {.fd = process, .events = POLLIN};
  const int ms = seconds <= 0 ? -1 : (int)(seconds * kMsPerSecond);
  int ready;
  do {
    ready = poll(&ended, 1, ms);
  } while (ready < 0 && errno == EINTR);
  if (ready == 0) {
    kill(-pid, SIGKILL);
    kill(pid, SIGKILL);
  }
  while (waitpid(pid, status, 0) < 0 && errno == EINTR) {
  }
  return ready > 0;
}

static bool run(const OciHook* hook, const struct hook_state* state, struct text* reason) {
  char** arguments = arguments_of(hook);
  char** environment = environment_of(hook);
  __attribute__((cleanup(close_descriptor))) const int file = state_file(state);
  if (arguments == NULL || environment == NULL || file < 0) {
    text_join(reason, "no memory for the hook ", hook->path, NULL);
    return false;
  }
  const pid_t pid = fork();
  if (pid == 0) {
    execute(hook, arguments, environment, file);
  }
  int status = 0;
  if (pid < 0) {
    text_failure(reason, "fork", hook->path, errno);
    return false;
  }
  if (!wait_for(pid, hook->timeout, &status)) {
    text_join(reason, "the hook ", hook->path, " did not end within its timeout", NULL);
    return false;
  }
  if (status != 0) {
    text_join(reason, "the hook ", hook->path,
              WIFSIGNALED(status) ? " was ended by signal " : " failed with status ", NULL);
    text_add_number(reason,
                    (uint64_t)(WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status)));
    return false;
  }
  return true;
}

bool hooks_run(OciHook** hooks, size_t count, const struct hook_state* state, struct text* reason) {
  for (size_t i = 0; i < count; i++) {
    if (!run(hooks[i], state, reason)) {
      return false;
    }
  }
  return true;
}
