// The ways to the host: the control connection, which the agent dials and dials
// again when it is lost (a restored snapshot loses it), and the listening socket
// for streams.
#ifndef EMBERVM_AGENT_CONTROL_H_
#define EMBERVM_AGENT_CONTROL_H_

#include <stdint.h>
#include <sys/socket.h>

struct control_address {
  const struct sockaddr* address;
  socklen_t length;
};

// Starts a connection without waiting for it. -1 with errno.
int control_dial(const struct control_address* to);

// Serves the socket that control_dial gave (-1: dials by and by) and, when `at` is
// not NULL, listens there. -1 with errno when it cannot listen.
int control_start(int dialled, const struct control_address* to, const struct control_address* at);
void control_stop(void);

#endif  // EMBERVM_AGENT_CONTROL_H_
