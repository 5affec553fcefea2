// Raw streams: connections of the host that carry bytes and nothing else, once
// they have said which they are. The host sends a 4-byte big-endian length and an
// id and gets both back; whoever was told the id by another way claims it.
#ifndef EMBERVM_AGENT_RAWSTREAM_H_
#define EMBERVM_AGENT_RAWSTREAM_H_

#include "control.h"

// -1 with errno when it cannot listen.
int raw_streams_start(const struct control_address* at);
void raw_streams_stop(void);

// The socket of the stream with this id, the caller's from now on; -1 when the
// host has opened none, or so long ago that it was dropped.
int raw_stream_claim(const char* id);

#endif  // EMBERVM_AGENT_RAWSTREAM_H_
