#include "listener.h"

#include <errno.h>
#include <linux/vm_sockets.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "limits.h"
#include "log.h"

int listener_open(struct loop_watch* listener, const struct control_address* at) {
  const int fd = socket(at->address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) {
    return -1;
  }
  listener->fd = fd;
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
