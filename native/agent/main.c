// PID 1 of the guest. Dials the host before anything else: the connection is the
// ready signal, and every instruction before it counts as boot time.
#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "control.h"
#include "limits.h"
#include "log.h"
#include "loop.h"
#include "rawstream.h"
#include "reaper.h"

static const struct sockaddr_vm kHost = {
    .svm_family = AF_VSOCK, .svm_port = AGENT_VSOCK_PORT, .svm_cid = VMADDR_CID_HOST};
static const struct sockaddr_vm kAnyone = {
    .svm_family = AF_VSOCK, .svm_port = AGENT_VSOCK_PORT, .svm_cid = VMADDR_CID_ANY};

static const struct sockaddr_vm kRawStreams = {
    .svm_family = AF_VSOCK, .svm_port = AGENT_RAW_PORT, .svm_cid = VMADDR_CID_ANY};

static struct control_address address_of(const struct sockaddr_vm* vsock) {
  return (struct control_address){(const struct sockaddr*)(const void*)vsock, sizeof(*vsock)};
}

// A kernel without a console opens no descriptors for PID 1. What follows relies
// on 0 to 2 being taken, so that no pipe or socket gets such a number.
static int clear_of_stdio(int fd) {
  if (fd > STDERR_FILENO) {
    return fd;
  }
  int moved = -1;
  if (fd >= 0) {
    moved = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    close(fd);
  }
  int filler;
  do {
    filler = open("/", O_PATH | O_CLOEXEC);
  } while (filler >= 0 && filler < STDERR_FILENO);
  if (filler > STDERR_FILENO) {
    close(filler);
  }
  return moved;
}

// What workloads inherit: programs that ask may have many descriptors, those that
// walk up to the soft limit are not slowed.
static void raise_limits(void) {
  const struct rlimit descriptors = {.rlim_cur = 1024, .rlim_max = 524288};
  if (prlimit(0, RLIMIT_NOFILE, &descriptors, NULL) < 0) {
    log_error("prlimit RLIMIT_NOFILE", errno);
  }
}

int main(void) {
  clock_boot.started_ns = clock_read_ns();
  const struct control_address host = address_of(&kHost);
  int dialled = control_dial(&host);
  clock_boot.dialled_ns = clock_read_ns();
  const int dial_error = errno;

  dialled = clear_of_stdio(dialled);
  if (dialled < 0) {
    log_error("dial the host", dial_error);
  }
  const struct control_address anyone = address_of(&kAnyone);
  if (loop_start() < 0 || reaper_start() < 0) {
    // Nothing can be served: let the kernel panic say so to the host.
    log_error("start the event loop", errno);
    return 1;
  }
  if (control_start(dialled, &host, &anyone) < 0) {
    log_error("listen for streams", errno);
  }
  const struct control_address raw_streams = address_of(&kRawStreams);
  if (raw_streams_start(&raw_streams) < 0) {
    log_error("listen for raw streams", errno);
  }
  raise_limits();
  for (;;) {
    loop_run_once(-1);
  }
}
