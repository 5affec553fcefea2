// A listening socket that takes connections of the host and of nobody else.
#ifndef EMBERVM_AGENT_LISTENER_H_
#define EMBERVM_AGENT_LISTENER_H_

#include "control.h"
#include "loop.h"

// Listens and watches for connections. -1 with errno; then the watch is inert.
int listener_open(struct loop_watch* listener, const struct control_address* at);

// One connection, non-blocking and close-on-exec; -1 when there is none after all.
int listener_accept(const struct loop_watch* listener);

#endif  // EMBERVM_AGENT_LISTENER_H_
