#include "users.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>

#include "lines.h"

// The all-ones id means "unchanged" to the system calls, so it is nobody's.
#define MAX_ID ((uint64_t)UINT32_MAX - 1)

struct passwd_search {
  struct slice wanted;
  bool by_id;
  uint64_t id;
  struct user* user;
  bool found;
};

struct group_search {
  // One group by name, or (empty) the groups that list the user.
  struct slice wanted;
  bool found;
  bool too_many;
  struct user* user;
};

static bool parse_id(struct slice slice, uint64_t* id) {
  return text_number(slice.data, slice.length, MAX_ID, id);
}

// name:password:uid:gid:comment:home:shell
static bool visit_passwd(void* context, struct slice line) {
  struct passwd_search* search = context;
  struct slice name;
  struct slice skipped;
  struct slice uid_text;
  struct slice gid_text;
  struct slice home;
  uint64_t uid;
  uint64_t gid;
  if (!slice_next(&line, ':', &name) || !slice_next(&line, ':', &skipped) ||
      !slice_next(&line, ':', &uid_text) || !slice_next(&line, ':', &gid_text) ||
      !slice_next(&line, ':', &skipped) || !slice_next(&line, ':', &home) || name.length == 0 ||
      !parse_id(uid_text, &uid) || !parse_id(gid_text, &gid)) {
    return true;
  }
  const bool match = slice_equals(name, search->wanted);
  // The name wins over the number: "1000" may be somebody's name, on a later line.
  if (!match && (search->found || !search->by_id || uid != search->id)) {
    return true;
  }
  struct user* user = search->user;
  if (!text_copy(user->name, sizeof(user->name), name.data, name.length)) {
    return true;
  }
  if (home.length == 0 || home.data[0] != '/' ||
      !text_copy(user->home, sizeof(user->home), home.data, home.length)) {
    text_copy(user->home, sizeof(user->home), "/", 1);
  }
  user->uid = (uid_t)uid;
  user->gid = (gid_t)gid;
  search->found = true;
  return !match;
}

static bool lists_user(struct slice members, const char* name) {
  const struct slice wanted = {name, strlen(name)};
  struct slice member;
  while (slice_next(&members, ',', &member)) {
    if (slice_equals(member, wanted)) {
      return true;
    }
  }
  return false;
}

// name:password:gid:member,member
static bool visit_group(void* context, struct slice line) {
  struct group_search* search = context;
  struct slice name;
  struct slice skipped;
  struct slice gid_text;
  uint64_t gid;
  if (!slice_next(&line, ':', &name) || !slice_next(&line, ':', &skipped) ||
      !slice_next(&line, ':', &gid_text) || !parse_id(gid_text, &gid)) {
    return true;
  }
  struct user* user = search->user;
  if (search->wanted.length > 0) {
    if (!slice_equals(name, search->wanted)) {
      return true;
    }
    user->gid = (gid_t)gid;
    search->found = true;
    return false;
  }
  struct slice members;
  if (!slice_next(&line, ':', &members) || !lists_user(members, user->name)) {
    return true;
  }
  if (user->group_count == AGENT_MAX_GROUPS) {
    search->too_many = true;
    return false;
  }
  user->groups[user->group_count++] = (gid_t)gid;
  return true;
}

static bool file_failed(int error, const char* path, struct text* reason) {
  // An image without the file has no names; numbers still work.
  if (error == 0 || error == ENOENT || error == ENOTDIR) {
    return false;
  }
  text_failure(reason, "read", path, error);
  return true;
}

static bool find_user(int root_fd, struct slice wanted, struct user* user, struct text* reason) {
  struct passwd_search search = {.wanted = wanted, .user = user};
  search.by_id = parse_id(wanted, &search.id);
  if (file_failed(lines_read(root_fd, "/etc/passwd", visit_passwd, &search), "/etc/passwd",
                  reason)) {
    return false;
  }
  if (!search.found && search.by_id) {
    user->uid = (uid_t)search.id;
    return true;
  }
  if (!search.found) {
    text_join(reason, "no such user in the image's /etc/passwd", NULL);
  }
  return search.found;
}

static bool find_group(int root_fd, struct slice wanted, struct user* user, struct text* reason) {
  struct group_search search = {.wanted = wanted, .user = user};
  if (file_failed(lines_read(root_fd, "/etc/group", visit_group, &search), "/etc/group", reason)) {
    return false;
  }
  uint64_t gid;
  if (!search.found && parse_id(wanted, &gid)) {
    user->gid = (gid_t)gid;
    return true;
  }
  if (!search.found) {
    text_join(reason, "no such group in the image's /etc/group", NULL);
  }
  return search.found;
}

static bool find_supplementary(int root_fd, struct user* user, struct text* reason) {
  if (user->name[0] == '\0') {
    return true;
  }
  struct group_search search = {.user = user};
  if (file_failed(lines_read(root_fd, "/etc/group", visit_group, &search), "/etc/group", reason)) {
    return false;
  }
  if (search.too_many) {
    text_join(reason, "the user is in too many groups of the image's /etc/group", NULL);
  }
  return !search.too_many;
}

bool users_resolve(int root_fd, const char* wanted, bool needs_home, struct user* user,
                   struct text* reason) {
  user->uid = 0;
  user->gid = 0;
  user->group_count = 0;
  user->name[0] = '\0';
  text_copy(user->home, sizeof(user->home), "/", 1);

  struct slice rest = {wanted, strlen(wanted)};
  struct slice user_part;
  struct slice group_part = {NULL, 0};
  slice_next(&rest, ':', &user_part);
  const bool has_group = slice_next(&rest, '\0', &group_part);
  if (user_part.length == 0) {
    user_part = (struct slice){"0", 1};
  }
  if (has_group && group_part.length == 0) {
    text_join(reason, "the group after \":\" is empty", NULL);
    return false;
  }

  uint64_t uid;
  uint64_t gid;
  if (!needs_home && has_group && parse_id(user_part, &uid) && parse_id(group_part, &gid)) {
    user->uid = (uid_t)uid;
    user->gid = (gid_t)gid;
    return true;
  }
  if (!find_user(root_fd, user_part, user, reason)) {
    return false;
  }
  return has_group ? find_group(root_fd, group_part, user, reason)
                   : find_supplementary(root_fd, user, reason);
}
