// Numbers that bound what the agent holds, and the addresses of the protocol.
// Every buffer in the agent is one of these sizes, so memory use is decided here.
#ifndef EMBERVM_AGENT_LIMITS_H_
#define EMBERVM_AGENT_LIMITS_H_

#include <stddef.h>
#include <stdint.h>

// The host listens here for the control connection, the agent for streams.
#define AGENT_VSOCK_PORT 1024u

// The host opens raw streams here.
#define AGENT_RAW_PORT 1026u
// An id that the host gives to a raw stream.
#define AGENT_RAW_ID_LIMIT 256
// Raw streams that wait to be claimed, and how long each may.
#define AGENT_MAX_UNCLAIMED_STREAMS 32
#define AGENT_RAW_CLAIM_MS 10000u

// What a stream may have in flight, each way; the host allows no more.
#define AGENT_VSOCK_BUFFER ((uint64_t)1024 * 1024)

// Four descriptors a connection (socket and three pipes) stay below the
// default RLIMIT_NOFILE of 1024.
#define AGENT_MAX_CONNECTIONS 192
#define AGENT_LISTEN_BACKLOG 128
#define AGENT_MAX_STREAMS_PER_CONNECTION 64

// Bytes of a pipe that travel in one message: whole pages of the pipe, and with
// its envelope the frame still fits one 64 KiB vsock packet.
#define AGENT_IO_CHUNK ((size_t)60 * 1024)
// What one stdin message may hold (agent.proto), and one of a file (files.proto).
#define AGENT_MAX_STDIN_MESSAGE ((size_t)64 * 1024)
#define AGENT_MAX_FILE_MESSAGE ((size_t)64 * 1024)

// One buffer of a connection or a pipe: two output chunks with their envelopes,
// or one stdin message with its own.
#define AGENT_BLOCK_SIZE ((size_t)144 * 1024)
// Room in the out buffer without which no further frame is taken in: the longest
// answer to a frame fits.
#define AGENT_REPLY_ROOM ((size_t)8 * 1024)

// Bytes of a terminal that are moved at once.
#define AGENT_TERMINAL_CHUNK ((size_t)16 * 1024)
// What a pseudo-terminal can hold of the bytes that were written to it: 8 KiB in
// flight (tty_buffer_set_limit in the kernel's pty.c), 4 KiB in the line
// discipline, and what the granularity of the former's buffers adds.
#define AGENT_TERMINAL_OWED ((size_t)32 * 1024)

// Frames longer than a block are gathered on the heap, all of them together
// within this budget.
#define AGENT_LARGE_FRAME_BUDGET ((size_t)16 * 1024 * 1024)
// What the decoding of one frame may allocate.
#define AGENT_ARENA_LIMIT ((size_t)24 * 1024 * 1024)

// After its process has ended, an exec waits this long for its pipes to close.
#define AGENT_DRAIN_GRACE_MS 50u

#define AGENT_REDIAL_MIN_MS 10u
#define AGENT_REDIAL_MAX_MS 1000u

// Processes that ignore SIGKILL this long are stuck in the kernel.
#define AGENT_KILL_GRACE_MS 2000u

// RLIMIT_* of the kernel are numbered below this.
#define AGENT_MAX_RLIMITS 16

// The text of a status or a failure.
#define AGENT_MESSAGE_SIZE 512

// /etc/passwd and /etc/group come from an untrusted image.
#define AGENT_USER_FILE_LIMIT ((size_t)4 * 1024 * 1024)
#define AGENT_USER_LINE_LIMIT ((size_t)16 * 1024)
#define AGENT_MAX_GROUPS 256
#define AGENT_NAME_SIZE 256

#define AGENT_PATH_SIZE 4096

// A file name with its NUL, and a system's time for one slice of a long job: so
// many entries of a directory, or so many chunks of a file.
#define AGENT_FILE_NAME_SIZE 256
#define AGENT_FILE_SLICE 64
// How deep a tree may be, and how many of its directories are held open.
#define AGENT_MAX_TREE_DEPTH 1024
#define AGENT_OPEN_TREE_LEVELS 8
// Directories below one watch.
#define AGENT_MAX_WATCHES 8192

// What is mixed into the random pool at once.
#define AGENT_MAX_SEED 4096

// virtio-mmio slots and CPUs that a request may name.
#define AGENT_MAX_SLOTS 64
#define AGENT_MAX_CPUS 256

#endif  // EMBERVM_AGENT_LIMITS_H_
