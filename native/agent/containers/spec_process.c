// The part of the configuration that says how a program runs.
#include <string.h>

#include "../arena.h"
#include "../environment.h"
#include "../ttrpc.h"
#include "bounds.h"
#include "spec.h"
#include "tables.h"

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

enum { kMaxSide = 65535, kMinScore = -1000, kMaxScore = 1000 };

static int refuse(struct text* reason, enum ttrpc_code code, const char* field, const char* why,
                  const char* value) {
  text_join(reason, "process.", field, " ", why, value, NULL);
  return (int)code;
}

static int read_strings(char** from, size_t count, const char* field, char*** to,
                        struct text* reason) {
  if (count > MAX_ARGUMENTS) {
    return refuse(reason, TTRPC_INVALID_ARGUMENT, field, "has too many entries", "");
  }
  *to = arena_allocate((count + 1) * sizeof(char*));
  if (*to == NULL) {
    return refuse(reason, TTRPC_RESOURCE_EXHAUSTED, field, "needs more memory than there is", "");
  }
  if (count > 0) {
    memcpy(*to, from, count * sizeof(char*));
  }
  (*to)[count] = NULL;
  return 0;
}

static int read_capability_set(char** names, size_t count, uint64_t* set, struct text* reason) {
  *set = 0;
  for (size_t i = 0; i < count; i++) {
    uint64_t bit;
    if (!capability_bit(names[i], &bit)) {
      return refuse(reason, TTRPC_INVALID_ARGUMENT, "capabilities",
                    "has an unknown name: ", names[i]);
    }
    *set |= bit;
  }
  return 0;
}

// Absent: none at all.
static int read_capabilities(const OciCapabilities* message, struct capabilities* to,
                             struct text* reason) {
  *to = (struct capabilities){0};
  if (message == NULL) {
    return 0;
  }
  int code = read_capability_set(message->bounding, message->n_bounding, &to->bounding, reason);
  if (code == 0) {
    code = read_capability_set(message->effective, message->n_effective, &to->effective, reason);
  }
  if (code == 0) {
    code =
        read_capability_set(message->inheritable, message->n_inheritable, &to->inheritable, reason);
  }
  if (code == 0) {
    code = read_capability_set(message->permitted, message->n_permitted, &to->permitted, reason);
  }
  if (code == 0) {
    code = read_capability_set(message->ambient, message->n_ambient, &to->ambient, reason);
  }
  if (code == 0 && (to->effective & ~to->permitted) != 0) {
    code = refuse(reason, TTRPC_INVALID_ARGUMENT, "capabilities",
                  "has effective ones that are not permitted", "");
  }
  if (code == 0 && (to->ambient & ~(to->permitted & to->inheritable)) != 0) {
    code = refuse(reason, TTRPC_INVALID_ARGUMENT, "capabilities",
                  "has ambient ones that are not permitted and inheritable", "");
  }
  return code;
}

static int read_limits(const OciProcess* message, struct process_spec* spec, struct text* reason) {
  spec->limit_count = 0;
  for (size_t i = 0; i < message->n_rlimits; i++) {
    const Grpc__POSIXRlimit* from = message->rlimits[i];
    const int resource = limit_number(from->type);
    if (resource < 0) {
      return refuse(reason, TTRPC_INVALID_ARGUMENT, "rlimits", "has an unknown type: ", from->type);
    }
    for (size_t k = 0; k < spec->limit_count; k++) {
      if (spec->limits[k].resource == resource) {
        return refuse(reason, TTRPC_INVALID_ARGUMENT, "rlimits", "has twice the type ", from->type);
      }
    }
    if (from->soft > from->hard) {
      return refuse(reason, TTRPC_INVALID_ARGUMENT, "rlimits",
                    "has a soft limit above the hard: ", from->type);
    }
    // No type twice and fewer types than places.
    spec->limits[spec->limit_count++] =
        (struct limit){resource, {.rlim_cur = from->soft, .rlim_max = from->hard}};
  }
  return 0;
}

static int read_user(const Grpc__User* user, struct process_spec* spec, struct text* reason) {
  if (user == NULL) {
    return 0;
  }
  if (user->n_additionalgids > MAX_GROUPS) {
    return refuse(reason, TTRPC_INVALID_ARGUMENT, "user", "has too many additionalGids", "");
  }
  spec->uid = user->uid;
  spec->gid = user->gid;
  spec->groups = user->additionalgids;
  spec->group_count = user->n_additionalgids;
  if (user->username[0] != '\0') {
    if (user->uid != 0 || user->gid != 0 || user->n_additionalgids > 0) {
      return refuse(reason, TTRPC_INVALID_ARGUMENT, "user",
                    "has a username beside numbers: ", user->username);
    }
    spec->user = user->username;
  }
  return 0;
}

static int check_unsupported(const OciProcess* message, struct text* reason) {
  if (message->apparmorprofile[0] != '\0') {
    return refuse(reason, TTRPC_UNIMPLEMENTED, "apparmorProfile",
                  "cannot be applied: the guest's kernel has no AppArmor", "");
  }
  if (message->selinuxlabel[0] != '\0') {
    return refuse(reason, TTRPC_UNIMPLEMENTED, "selinuxLabel",
                  "cannot be applied: the guest's kernel has no SELinux", "");
  }
  if (message->oomscoreadj < kMinScore || message->oomscoreadj > kMaxScore) {
    return refuse(reason, TTRPC_INVALID_ARGUMENT, "oomScoreAdj", "must be -1000 to 1000", "");
  }
  if (message->n_args == 0 || message->args[0][0] == '\0') {
    return refuse(reason, TTRPC_INVALID_ARGUMENT, "args", "names no program", "");
  }
  if (message->cwd[0] != '/') {
    return refuse(reason, TTRPC_INVALID_ARGUMENT, "cwd", "must be absolute: ", message->cwd);
  }
  if (!environment_is_valid(message->env, message->n_env)) {
    return refuse(reason, TTRPC_INVALID_ARGUMENT, "env", "has an entry that is not NAME=value", "");
  }
  const Grpc__Box* size = message->consolesize;
  if (size != NULL && (size->height > kMaxSide || size->width > kMaxSide)) {
    return refuse(reason, TTRPC_INVALID_ARGUMENT, "consoleSize", "must be at most 65535", "");
  }
  return 0;
}

int spec_read_process(const OciProcess* message, struct process_spec* spec, struct text* reason) {
  *spec = (struct process_spec){0};
  if (message == NULL) {
    text_join(reason, "process is missing", NULL);
    return TTRPC_INVALID_ARGUMENT;
  }
  int code = check_unsupported(message, reason);
  if (code == 0) {
    code = read_strings(message->args, message->n_args, "args", &spec->arguments, reason);
  }
  if (code == 0) {
    code = read_strings(message->env, message->n_env, "env", &spec->environment, reason);
  }
  if (code == 0) {
    code = read_user(message->user, spec, reason);
  }
  if (code == 0) {
    code = read_capabilities(message->capabilities, &spec->capabilities, reason);
  }
  if (code == 0) {
    code = read_limits(message, spec, reason);
  }
  if (code != 0) {
    return code;
  }
  spec->path = environment_get(message->env, message->n_env, "PATH");
  if (spec->path == NULL) {
    spec->path = DEFAULT_PATH;
  }
  spec->directory = message->cwd;
  spec->oom_score = (int)message->oomscoreadj;
  spec->no_new_privileges = message->nonewprivileges;
  spec->terminal = message->terminal;
  if (message->consolesize != NULL) {
    spec->rows = (uint16_t)message->consolesize->height;
    spec->columns = (uint16_t)message->consolesize->width;
  }
  return 0;
}

int spec_read_user(const StringUser* message, struct process_spec* spec, struct text* reason) {
  if (message == NULL || (message->uid[0] == '\0' && message->gid[0] == '\0')) {
    return 0;
  }
  if (message->n_additionalgids > 0) {
    text_join(reason, "string_user.additionalGids cannot be applied: give process.user", NULL);
    return TTRPC_UNIMPLEMENTED;
  }
  if (spec->user != NULL || spec->uid != 0 || spec->gid != 0) {
    text_join(reason, "string_user and process.user both name somebody", NULL);
    return TTRPC_INVALID_ARGUMENT;
  }
  struct text user;
  text_join(&user, message->uid, message->gid[0] == '\0' ? "" : ":", message->gid, NULL);
  char* copy = user.cut ? NULL : arena_allocate(user.length + 1);
  if (copy == NULL) {
    text_join(reason, "string_user is too long", NULL);
    return TTRPC_INVALID_ARGUMENT;
  }
  memcpy(copy, user.data, user.length + 1);
  spec->user = copy;
  return 0;
}

bool spec_id_is_valid(const char* id) {
  size_t length = 0;
  for (const char* at = id; *at != '\0'; at++, length++) {
    const bool letter =
        (*at >= 'a' && *at <= 'z') || (*at >= 'A' && *at <= 'Z') || (*at >= '0' && *at <= '9');
    const bool mark = *at == '_' || *at == '-' || *at == '.' || *at == '+';
    if (!letter && (!mark || length == 0)) {
      return false;
    }
  }
  return length > 0 && length < CONTAINER_ID_SIZE;
}
