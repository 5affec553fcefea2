#include "environment.h"

#include <string.h>

#include "arena.h"

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

const char* environment_get(char* const* entries, size_t count, const char* name) {
  const size_t length = strlen(name);
  for (size_t i = count; i > 0; i--) {
    const char* entry = entries[i - 1];
    if (strncmp(entry, name, length) == 0 && entry[length] == '=') {
      return entry + length + 1;
    }
  }
  return NULL;
}

bool environment_is_valid(char* const* entries, size_t count) {
  for (size_t i = 0; i < count; i++) {
    if (entries[i][0] == '=' || strchr(entries[i], '=') == NULL) {
      return false;
    }
  }
  return true;
}

static char* make_entry(const char* name, const char* value) {
  const size_t name_length = strlen(name);
  const size_t value_length = strlen(value);
  char* entry = arena_allocate(name_length + 1 + value_length + 1);
  if (entry != NULL) {
    memcpy(entry, name, name_length);
    entry[name_length] = '=';
    memcpy(entry + name_length + 1, value, value_length + 1);
  }
  return entry;
}

char** environment_build(char* const* entries, size_t count, const struct user* user) {
  const struct {
    const char* name;
    const char* value;
  } defaults[] = {
      {"PATH", DEFAULT_PATH},
      {"HOME", user->home},
      {"USER", user->name},
      {"LOGNAME", user->name},
  };
  const size_t default_count = sizeof(defaults) / sizeof(defaults[0]);
  char** built = arena_allocate((count + default_count + 1) * sizeof(*built));
  if (built == NULL) {
    return NULL;
  }
  if (count > 0) {
    memcpy(built, entries, count * sizeof(*built));
  }
  size_t length = count;
  for (size_t i = 0; i < default_count; i++) {
    // A user without an entry has no name to give.
    if (defaults[i].value[0] == '\0' || environment_get(entries, count, defaults[i].name) != NULL) {
      continue;
    }
    built[length] = make_entry(defaults[i].name, defaults[i].value);
    if (built[length++] == NULL) {
      return NULL;
    }
  }
  built[length] = NULL;
  return built;
}
