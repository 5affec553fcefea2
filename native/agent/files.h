// The methods of the Files service (proto/files.proto). Paths are resolved inside
// the workload's root. Quick operations answer at once; the others are jobs
// (files_job.h) on a stream.
#ifndef EMBERVM_AGENT_FILES_H_
#define EMBERVM_AGENT_FILES_H_

#include "server.h"

void files_stat(const struct call* call);
void files_read_link(const struct call* call);
void files_make_directory(const struct call* call);
void files_remove(const struct call* call);
void files_rename(const struct call* call);
void files_make_symlink(const struct call* call);
void files_set_attributes(const struct call* call);

void files_read(const struct call* call);
void files_write(const struct call* call);
void files_list(const struct call* call);
void files_remove_tree(const struct call* call);
void files_copy(const struct call* call);
void files_watch(const struct call* call);

// Ends every job, so that no open file keeps the root from being unmounted.
void files_release(void);

#endif  // EMBERVM_AGENT_FILES_H_
