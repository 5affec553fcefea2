#include "spec.h"

#include <sched.h>
#include <string.h>

#include "../arena.h"
#include "../lines.h"
#include "bounds.h"
#include "spec_private.h"
#include "tables.h"

enum { kMaxHostname = 64, kMaxSysctls = 256, kMaxPath = 4095 };

int spec_refuse(struct text* reason, enum ttrpc_code code, const char* field, const char* why,
                const char* value) {
  text_join(reason, field, " ", why, value, NULL);
  return (int)code;
}

static bool has_dot_dot(const char* path) {
  struct slice rest = {path, strlen(path)};
  struct slice part;
  while (slice_next(&rest, '/', &part)) {
    if (slice_equals(part, (struct slice){"..", 2})) {
      return true;
    }
  }
  return false;
}

static int read_namespaces(const OciLinux* message, struct container_spec* spec,
                           struct text* reason) {
  int seen = 0;
  for (size_t i = 0; i < message->n_namespaces; i++) {
    const OciNamespace* from = message->namespaces[i];
    const int flag = namespace_flag(from->type);
    if (flag == 0) {
      const bool known = strcmp(from->type, "user") == 0 || strcmp(from->type, "time") == 0;
      return spec_refuse(reason, known ? TTRPC_UNIMPLEMENTED : TTRPC_INVALID_ARGUMENT,
                         "linux.namespaces.type",
                         known ? "is not supported: " : "is unknown: ", from->type);
    }
    if ((seen & flag) != 0) {
      return spec_refuse(reason, TTRPC_INVALID_ARGUMENT, "linux.namespaces", "has twice the type ",
                         from->type);
    }
    seen |= flag;
    if (from->path[0] == '\0') {
      spec->namespaces |= flag;
    } else if (from->path[0] != '/') {
      return spec_refuse(reason, TTRPC_INVALID_ARGUMENT, "linux.namespaces.path",
                         "must be absolute: ", from->path);
    } else if (flag == CLONE_NEWNS) {
      return spec_refuse(reason, TTRPC_UNIMPLEMENTED, "linux.namespaces.path",
                         "cannot be that of a mount namespace: ", from->path);
    } else {
      // No type twice and fewer types than places.
      spec->joins[spec->join_count++] = (struct join){flag, from->path};
    }
  }
  if ((spec->namespaces & CLONE_NEWNS) == 0) {
    return spec_refuse(reason, TTRPC_UNIMPLEMENTED, "linux.namespaces",
                       "must have a new mount namespace", "");
  }
  return 0;
}

static bool has_namespace(const struct container_spec* spec, int flag) {
  for (size_t i = 0; i < spec->join_count; i++) {
    if (spec->joins[i].flag == flag) {
      return true;
    }
  }
  return (spec->namespaces & flag) != 0;
}

// Those that belong to a namespace; others would be the whole guest's.
static int sysctl_namespace(const char* key) {
  static const char* const ipc[] = {"kernel.msgmax", "kernel.msgmnb",         "kernel.msgmni",
                                    "kernel.sem",    "kernel.shmall",         "kernel.shmmax",
                                    "kernel.shmmni", "kernel.shm_rmid_forced"};
  for (size_t i = 0; i < sizeof(ipc) / sizeof(ipc[0]); i++) {
    if (strcmp(ipc[i], key) == 0) {
      return CLONE_NEWIPC;
    }
  }
  if (strncmp(key, "fs.mqueue.", strlen("fs.mqueue.")) == 0) {
    return CLONE_NEWIPC;
  }
  if (strncmp(key, "net.", strlen("net.")) == 0) {
    return CLONE_NEWNET;
  }
  return strcmp(key, "kernel.domainname") == 0 ? CLONE_NEWUTS : 0;
}

static int read_sysctl(const char* key, const char* value, struct container_spec* spec,
                       struct sysctl* to, struct text* reason) {
  const size_t length = strlen(key);
  char* path = length > kMaxPath ? NULL : arena_allocate(length + 1);
  if (path == NULL) {
    return spec_refuse(reason, TTRPC_INVALID_ARGUMENT, "linux.sysctl", "has a key that is too long",
                       "");
  }
  // Keys with slashes keep their dots, as sysctl(8) has it.
  const bool dotted = strchr(key, '/') == NULL;
  for (size_t i = 0; i <= length; i++) {
    path[i] = dotted && key[i] == '.' ? '/' : key[i];
  }
  char* name = arena_allocate(length + 1);
  if (name == NULL) {
    return spec_refuse(reason, TTRPC_RESOURCE_EXHAUSTED, "linux.sysctl",
                       "needs more memory than there is", "");
  }
  for (size_t i = 0; i <= length; i++) {
    name[i] = path[i] == '/' ? '.' : path[i];
  }
  const int flag = sysctl_namespace(name);
  if (flag == 0 || !has_namespace(spec, flag) || path[0] == '/' || has_dot_dot(path)) {
    return spec_refuse(reason, TTRPC_INVALID_ARGUMENT, "linux.sysctl",
                       "has what no namespace of the container has: ", key);
  }
  *to = (struct sysctl){path, value};
  return 0;
}

static int read_sysctls(const OciLinux* message, struct container_spec* spec, struct text* reason) {
  if (message->n_sysctl > kMaxSysctls) {
    return spec_refuse(reason, TTRPC_INVALID_ARGUMENT, "linux.sysctl", "has over 256 entries", "");
  }
  spec->sysctls = arena_allocate((message->n_sysctl + 1) * sizeof(struct sysctl));
  if (spec->sysctls == NULL) {
    return spec_refuse(reason, TTRPC_RESOURCE_EXHAUSTED, "linux.sysctl",
                       "needs more memory than there is", "");
  }
  for (size_t i = 0; i < message->n_sysctl; i++) {
    const int code = read_sysctl(message->sysctl[i]->key, message->sysctl[i]->value, spec,
                                 &spec->sysctls[i], reason);
    if (code != 0) {
      return code;
    }
  }
  spec->sysctl_count = message->n_sysctl;
  return 0;
}

static int check_hook_list(Grpc__Hook** hooks, size_t count, const char* field,
                           struct text* reason) {
  enum { kMaxTimeout = 86400 };
  if (count > MAX_HOOKS) {
    return spec_refuse(reason, TTRPC_INVALID_ARGUMENT, field, "has over 64 entries", "");
  }
  for (size_t i = 0; i < count; i++) {
    if (hooks[i]->path[0] != '/') {
      return spec_refuse(reason, TTRPC_INVALID_ARGUMENT, field,
                         "must have absolute paths: ", hooks[i]->path);
    }
    if (hooks[i]->timeout < 0 || hooks[i]->timeout > kMaxTimeout) {
      return spec_refuse(reason, TTRPC_INVALID_ARGUMENT, field,
                         "must have timeouts of 1 s to a day, or none: ", hooks[i]->path);
    }
  }
  return 0;
}

static int check_hooks(const Grpc__Hooks* hooks, struct text* reason) {
  if (hooks == NULL) {
    return 0;
  }
  const struct {
    Grpc__Hook** hooks;
    size_t count;
    const char* field;
  } lists[] = {
      {hooks->prestart, hooks->n_prestart, "hooks.prestart"},
      {hooks->createruntime, hooks->n_createruntime, "hooks.createRuntime"},
      {hooks->createcontainer, hooks->n_createcontainer, "hooks.createContainer"},
      {hooks->startcontainer, hooks->n_startcontainer, "hooks.startContainer"},
      {hooks->poststart, hooks->n_poststart, "hooks.poststart"},
      {hooks->poststop, hooks->n_poststop, "hooks.poststop"},
  };
  for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
    const int code = check_hook_list(lists[i].hooks, lists[i].count, lists[i].field, reason);
    if (code != 0) {
      return code;
    }
  }
  return 0;
}

static int read_devices_and_paths(const OciLinux* message, struct container_spec* spec,
                                  struct text* reason) {
  int code = spec_read_devices(message, spec, reason);
  if (code == 0) {
    code =
        spec_check_paths(message->maskedpaths, message->n_maskedpaths, "linux.maskedPaths", reason);
  }
  if (code == 0) {
    code = spec_check_paths(message->readonlypaths, message->n_readonlypaths, "linux.readonlyPaths",
                            reason);
  }
  spec->masked = message->maskedpaths;
  spec->masked_count = message->n_maskedpaths;
  spec->readonly = message->readonlypaths;
  spec->readonly_count = message->n_readonlypaths;
  return code;
}

static int check_cgroup_path(const char* path, struct text* reason) {
  if (strlen(path) > kMaxPath / 2 || has_dot_dot(path)) {
    return spec_refuse(reason, TTRPC_INVALID_ARGUMENT, "linux.cgroupsPath",
                       "must be a path without \"..\": ", path);
  }
  if (strchr(path, ':') != NULL) {
    return spec_refuse(reason, TTRPC_UNIMPLEMENTED, "linux.cgroupsPath",
                       "cannot be one of systemd: ", path);
  }
  return 0;
}

static int read_linux(const OciLinux* message, struct container_spec* spec, struct text* reason) {
  if (message->n_uidmappings > 0 || message->n_gidmappings > 0) {
    return spec_refuse(reason, TTRPC_UNIMPLEMENTED, "linux.uidMappings and gidMappings",
                       "are not supported: containers have no user namespace", "");
  }
  if (message->mountlabel[0] != '\0') {
    return spec_refuse(reason, TTRPC_UNIMPLEMENTED, "linux.mountLabel",
                       "cannot be applied: the guest's kernel has no SELinux", "");
  }
  if (message->intelrdt != NULL) {
    return spec_refuse(reason, TTRPC_UNIMPLEMENTED, "linux.intelRdt",
                       "cannot be applied: the guest has no such CPU feature", "");
  }
  if (message->rootfspropagation[0] != '\0') {
    spec->propagation = propagation_flag(message->rootfspropagation);
    if (spec->propagation == 0) {
      return spec_refuse(reason, TTRPC_INVALID_ARGUMENT, "linux.rootfsPropagation",
                         "is unknown: ", message->rootfspropagation);
    }
  }
  int code = check_cgroup_path(message->cgroupspath, reason);
  if (code == 0) {
    code = read_namespaces(message, spec, reason);
  }
  if (code == 0) {
    code = read_devices_and_paths(message, spec, reason);
  }
  if (code == 0) {
    code = read_sysctls(message, spec, reason);
  }
  if (code == 0) {
    code = spec_check_resources(message->resources, reason);
  }
  if (code == 0 && message->seccomp != NULL) {
    code = seccomp_compile(message->seccomp, spec, reason);
  }
  spec->cgroup = message->cgroupspath;
  spec->resources = message->resources;
  return code;
}

static int check_rest(const OciSpec* message, struct text* reason) {
  if (message->solaris != NULL || message->windows != NULL) {
    return spec_refuse(reason, TTRPC_UNIMPLEMENTED, "solaris and windows",
                       "are not for containers of Linux", "");
  }
  if (message->version[0] != '\0' && strncmp(message->version, "1.", 2) != 0) {
    return spec_refuse(reason, TTRPC_INVALID_ARGUMENT, "ociVersion",
                       "must be 1.x: ", message->version);
  }
  if (message->root == NULL || message->root->path[0] != '/' ||
      strlen(message->root->path) > kMaxPath) {
    return spec_refuse(reason, TTRPC_INVALID_ARGUMENT, "root.path",
                       "must be an absolute path of the guest", "");
  }
  if (strlen(message->hostname) > kMaxHostname) {
    return spec_refuse(reason, TTRPC_INVALID_ARGUMENT, "hostname", "is over 64 bytes", "");
  }
  if (message->linux == NULL) {
    return spec_refuse(reason, TTRPC_INVALID_ARGUMENT, "linux", "is missing", "");
  }
  return 0;
}

int spec_read(const OciSpec* message, struct container_spec* spec, struct text* reason) {
  *spec = (struct container_spec){0};
  if (message == NULL) {
    text_join(reason, "OCI is missing: a container needs its specification", NULL);
    return TTRPC_INVALID_ARGUMENT;
  }
  int code = check_rest(message, reason);
  if (code == 0) {
    code = spec_read_process(message->process, &spec->process, reason);
  }
  if (code == 0) {
    code = spec_read_mounts(message, spec, reason);
  }
  if (code == 0) {
    code = check_hooks(message->hooks, reason);
  }
  if (code == 0) {
    code = read_linux(message->linux, spec, reason);
  }
  if (code != 0) {
    return code;
  }
  if (message->hostname[0] != '\0' && !has_namespace(spec, CLONE_NEWUTS)) {
    return spec_refuse(reason, TTRPC_INVALID_ARGUMENT, "hostname",
                       "needs a UTS namespace of the container's own", "");
  }
  spec->root = message->root->path;
  spec->root_readonly = message->root->readonly;
  spec->hostname = message->hostname;
  spec->hooks = message->hooks;
  return 0;
}
