#include "listener.h"

#include <errno.h>
#include <linux/vm_sockets.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "limits.h"
#include "log.h"

// What the connections of a vsock listener inherit. The kernel keeps no more in flight to the
// host than its own receive buffer holds, which has a quarter of this by default.
static void widen_buffers(int fd) {
  const uint64_t bytes = AGENT_VSOCK_BUFFER;
  if (setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_BUFFER_MAX_SIZE, &bytes, sizeof(bytes)) < 0 ||
      setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_BUFFER_SIZE, &bytes, sizeof(bytes)) < 0) {
    log_error("widen the buffers of vsock streams", errno);
  }
}

int listener_open(struct loop_watch* listener, const struct control_address* at) {
  const int fd = socket(at->address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) {
    return -1;
  }
  listener->fd = fd;
  if (at->address->sa_family == AF_VSOCK) {
    widen_buffers(fd);
  }
  if (bind(fd, at->address, at->length) < 0 || listen(fd, AGENT_LISTEN_BACKLOG) < 0 ||
      loop_watch_set(listener, EPOLLIN) < 0) {
    const int error = errno;
    loop_watch_close(listener);
    errno = error;
    return -1;
  }
  return 0;
}

int listener_accept(const struct loop_watch* listener) {
  union {
    struct sockaddr any;
    struct sockaddr_vm vsock;
  } peer = {0};
  socklen_t length = sizeof(peer);
  const int fd = accept4(listener->fd, &peer.any, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd < 0) {
    if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
      log_error("accept", errno);
    }
    return -1;
  }
  // A workload in this machine must not command the agent.
  if (peer.any.sa_family == AF_VSOCK && peer.vsock.svm_cid != VMADDR_CID_HOST) {
    close(fd);
    return -1;
  }
  return fd;
}
