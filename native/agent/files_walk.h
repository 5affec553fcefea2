// A walk through a tree, depth first, that can be left off and taken up again
// between any two entries. It holds one buffer and a few descriptors however large
// the tree is, and never leaves it: no link is followed, and a directory that was
// moved away meanwhile ends the walk with an error.
#ifndef EMBERVM_AGENT_FILES_WALK_H_
#define EMBERVM_AGENT_FILES_WALK_H_

#include <stdalign.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "files_at.h"
#include "text.h"

struct walk_level {
  // Where reading goes on after a directory below has been dealt with.
  off_t position;
  int fd;
  uint16_t path_length;
  // Entries were removed, so what was read of it no longer holds.
  bool stale;
};

struct walk {
  struct walk_level* levels;
  // 0: the walk is over.
  size_t depth;
  size_t at;
  size_t end;
  // Every entry is removed by the caller.
  bool removing;
  // The current directory, below the top.
  struct file_path path;
  // The name of the directory that was left last.
  char left[AGENT_FILE_NAME_SIZE];
  alignas(8) uint8_t buffer[8192];
};

enum walk_step { WALK_ENTRY, WALK_END_OF_DIRECTORY, WALK_FAILED };

// Takes the descriptor of the top, which is open for reading. NULL without memory,
// then the descriptor is closed.
struct walk* walk_open(int fd, bool removing);
void walk_close(struct walk** walk);

int walk_fd(const struct walk* walk);

// The next entry of the current directory. The name lives until the next call.
enum walk_step walk_next(struct walk* walk, const char** name, uint8_t* type,
                         struct file_error* error);

// Whether the next entry comes without a new filling of the buffer, so that the
// names that were given stay where they are.
bool walk_has_next(struct walk* walk);

// Makes a directory below the current one the current one.
bool walk_enter(struct walk* walk, const char* name, struct file_error* error);

// Goes back to the directory above. At the top the walk is over.
bool walk_leave(struct walk* walk, struct file_error* error);

// Of a directory being removed: an entry is gone.
void walk_removed(struct walk* walk);

// The path of an entry of the current directory below the top, for a message.
void walk_tell(const struct walk* walk, const char* name, struct text* where);

#endif  // EMBERVM_AGENT_FILES_WALK_H_
