// The agent's few own lines, for what no reply can carry. They go to the console
// that the kernel opened for PID 1; each costs thousands of guest instructions.
#ifndef EMBERVM_AGENT_LOG_H_
#define EMBERVM_AGENT_LOG_H_

// "agent: <what>: <text of error>". Error 0 leaves the text out.
void log_error(const char* what, int error);

#endif  // EMBERVM_AGENT_LOG_H_
