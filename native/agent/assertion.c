// What protobuf-c's assertions call. libc's own brings printf with it, a sixth of
// the binary.
#include <unistd.h>

#include "log.h"

_Noreturn void __assert_fail(const char* expression, const char* file, int line,
                             const char* function);

_Noreturn void __assert_fail(const char* expression, const char* file, int line,
                             const char* function) {
  (void)file;
  (void)line;
  (void)function;
  log_error(expression, 0);
  // The kernel panics when PID 1 ends, and the host is told.
  _exit(1);
}
