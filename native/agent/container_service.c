#include "container_service.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>

#include "root.h"
#include "spawn.h"

static char program[] = "/containers";

static pid_t running;

int container_service_start(uint32_t port, struct text* reason) {
  if (running > 0) {
    return 0;
  }
  if (!root_is_ready()) {
    text_join(reason, "no root yet: call SetUpRoot first", NULL);
    return EAGAIN;
  }
  static const struct user root_user = {.uid = 0};
  static char* environment[] = {NULL};
  struct text number;
  text_clear(&number);
  text_add_number(&number, port);
  char* arguments[] = {program, number.data, NULL};
  const int null = root_null_fd();
  const struct spawn_request request = {
      .root = "/",
      .cwd = "/",
      .argv = arguments,
      .envp = environment,
      .path = "/",
      .user = &root_user,
      .stdio = {null, null, null},
      .namespaces = SPAWN_SHARED,
  };
  const struct spawn_result result = spawn_process(&request);
  if (result.pid < 0) {
    text_failure(reason, "start", program, result.error);
    return result.error;
  }
  running = result.pid;
  return 0;
}

void container_service_reaped(pid_t pid) {
  if (pid == running) {
    running = 0;
  }
}
