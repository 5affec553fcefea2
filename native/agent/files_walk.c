#include "files_walk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "inroot.h"

// getdents64(2); libc's struct dirent is not meant for it.
struct entry {
  uint64_t inode;
  int64_t next;
  uint16_t length;
  uint8_t type;
  char name[];
};

enum { kOpenDirectory = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC };

static struct walk_level* current(const struct walk* walk) {
  return &walk->levels[walk->depth - 1];
}

struct walk* walk_open(int fd, bool removing) {
  struct walk* walk = malloc(sizeof(*walk));
  struct walk_level* levels = malloc(sizeof(*levels) * AGENT_MAX_TREE_DEPTH);
  if (walk == NULL || levels == NULL) {
    free(walk);
    free(levels);
    close(fd);
    return NULL;
  }
  walk->levels = levels;
  walk->depth = 1;
  walk->at = 0;
  walk->end = 0;
  walk->removing = removing;
  walk->path.length = 0;
  walk->path.text[0] = '\0';
  walk->left[0] = '\0';
  levels[0] = (struct walk_level){.fd = fd};
  return walk;
}

void walk_close(struct walk** walk) {
  if (*walk == NULL) {
    return;
  }
  for (size_t i = 0; i < (*walk)->depth; i++) {
    file_close(&(*walk)->levels[i].fd);
  }
  free((*walk)->levels);
  free(*walk);
  *walk = NULL;
}

int walk_fd(const struct walk* walk) { return current(walk)->fd; }

static bool is_dots(const char* name) {
  return name[0] == '.' && (name[1] == '\0' || (name[1] == '.' && name[2] == '\0'));
}

bool walk_has_next(struct walk* walk) {
  while (walk->at < walk->end) {
    const struct entry* entry = (const void*)(walk->buffer + walk->at);
    if (!is_dots(entry->name)) {
      return true;
    }
    walk->at += entry->length;
  }
  return false;
}

enum walk_step walk_next(struct walk* walk, const char** name, uint8_t* type,
                         struct file_error* error) {
  struct walk_level* level = current(walk);
  while (!walk_has_next(walk)) {
    const long count = syscall(SYS_getdents64, level->fd, walk->buffer, sizeof(walk->buffer));
    if (count < 0) {
      file_failed(error, "getdents64");
      return WALK_FAILED;
    }
    walk->at = 0;
    walk->end = (size_t)count;
    if (count > 0) {
      continue;
    }
    // Some file systems skip entries when others are removed meanwhile.
    if (!level->stale) {
      return WALK_END_OF_DIRECTORY;
    }
    level->stale = false;
    if (lseek(level->fd, 0, SEEK_SET) < 0) {
      file_failed(error, "lseek");
      return WALK_FAILED;
    }
  }
  const struct entry* entry = (const void*)(walk->buffer + walk->at);
  walk->at += entry->length;
  level->position = entry->next;
  *name = entry->name;
  *type = entry->type;
  return WALK_ENTRY;
}

bool walk_enter(struct walk* walk, const char* name, struct file_error* error) {
  const size_t length = strlen(name);
  const size_t slash = walk->path.length > 0 ? 1 : 0;
  if (walk->depth == AGENT_MAX_TREE_DEPTH ||
      walk->path.length + slash + length >= sizeof(walk->path.text)) {
    return file_refused(error, ENAMETOOLONG, "open");
  }
  const int fd = openat(walk_fd(walk), name, kOpenDirectory);
  if (fd < 0) {
    return file_failed(error, "open");
  }
  current(walk)->path_length = (uint16_t)walk->path.length;
  if (slash > 0) {
    walk->path.text[walk->path.length++] = '/';
  }
  memcpy(walk->path.text + walk->path.length, name, length + 1);
  walk->path.length += length;
  walk->levels[walk->depth++] = (struct walk_level){.fd = fd};
  walk->at = 0;
  walk->end = 0;
  // The top stays open: what is closed is found again from there.
  if (walk->depth > AGENT_OPEN_TREE_LEVELS + 1) {
    file_close(&walk->levels[walk->depth - 1 - AGENT_OPEN_TREE_LEVELS].fd);
  }
  return true;
}

bool walk_leave(struct walk* walk, struct file_error* error) {
  file_close(&current(walk)->fd);
  walk->depth--;
  walk->at = 0;
  walk->end = 0;
  if (walk->depth == 0) {
    return true;
  }
  struct walk_level* level = current(walk);
  const char* name = walk->path.text + level->path_length;
  name += *name == '/' ? 1 : 0;
  text_copy(walk->left, sizeof(walk->left), name, strlen(name));
  walk->path.length = level->path_length;
  walk->path.text[walk->path.length] = '\0';
  if (level->fd < 0) {
    level->fd = open_beneath(walk->levels[0].fd, walk->path.text, kOpenDirectory);
    if (level->fd < 0) {
      return file_failed(error, "open");
    }
  }
  level->stale = walk->removing;
  return lseek(level->fd, walk->removing ? 0 : level->position, SEEK_SET) >= 0 ||
         file_failed(error, "lseek");
}

void walk_removed(struct walk* walk) { current(walk)->stale = true; }

void walk_tell(const struct walk* walk, const char* name, struct text* where) {
  text_join(where, walk->path.text, walk->path.length > 0 ? "/" : "", name, NULL);
}
