// Mounts, devices and the paths that are hidden or made read-only.
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "../arena.h"
#include "../lines.h"
#include "../ttrpc.h"
#include "bounds.h"
#include "spec.h"
#include "spec_private.h"
#include "tables.h"

// What the kernel takes as the data of a mount: a page with its NUL.
enum { kMaxData = 4095, kMaxPath = 4095, kModeBits = 07777, kDefaultMode = 0666 };

static bool is_absolute(const char* path) { return path[0] == '/' && strlen(path) <= kMaxPath; }

static int apply_option(const char* name, struct mount_spec* spec, char* data, size_t* used,
                        struct text* reason) {
  const struct mount_option* option = mount_option_find(name);
  if (option == NULL) {
    const size_t length = strlen(name);
    if (length == 0 || *used + 1 + length > kMaxData) {
      return spec_refuse(reason, TTRPC_INVALID_ARGUMENT, "mounts.options",
                         length == 0 ? "has an empty entry at " : "are too long at ", spec->target);
    }
    if (*used > 0) {
      data[(*used)++] = ',';
    }
    memcpy(data + *used, name, length + 1);
    *used += length;
    return 0;
  }
  if (option->bind) {
    spec->bind = true;
    spec->bind_recursive |= option->recursive;
    return 0;
  }
  if (option->propagation != 0) {
    spec->propagation = option->propagation;
    return 0;
  }
  spec->set = (spec->set & ~option->clear) | option->set;
  spec->clear = (spec->clear & ~option->set) | option->clear;
  spec->attributes_recursive |= option->recursive;
  return 0;
}

int spec_read_mount(const OciMount* message, struct mount_spec* spec, struct text* reason) {
  *spec = (struct mount_spec){
      .target = message->destination, .source = message->source, .type = message->type};
  if (!is_absolute(message->destination)) {
    return spec_refuse(reason, TTRPC_INVALID_ARGUMENT, "mounts.destination",
                       "must be an absolute path: ", message->destination);
  }
  char* data = arena_allocate(kMaxData + 1);
  if (data == NULL) {
    return spec_refuse(reason, TTRPC_RESOURCE_EXHAUSTED, "mounts", "need more memory than there is",
                       "");
  }
  size_t used = 0;
  data[0] = '\0';
  for (size_t i = 0; i < message->n_options; i++) {
    const int code = apply_option(message->options[i], spec, data, &used, reason);
    if (code != 0) {
      return code;
    }
  }
  spec->data = data;
  spec->bind |= strcmp(message->type, "bind") == 0;
  if (spec->bind) {
    if (!is_absolute(message->source)) {
      return spec_refuse(reason, TTRPC_INVALID_ARGUMENT, "mounts.source",
                         "must be an absolute path of the guest: ", message->source);
    }
    if (used > 0) {
      return spec_refuse(reason, TTRPC_INVALID_ARGUMENT, "mounts.options",
                         "has what is none of a bind mount: ", data);
    }
  } else if (message->type[0] == '\0') {
    return spec_refuse(reason, TTRPC_INVALID_ARGUMENT, "mounts.type", "is missing for ",
                       message->destination);
  }
  if (strcmp(message->type, "cgroup") == 0) {
    // There is one hierarchy in the guest, the second version's.
    spec->type = "cgroup2";
  }
  return 0;
}

int spec_read_mounts(const OciSpec* message, struct container_spec* spec, struct text* reason) {
  if (message->n_mounts > MAX_MOUNTS) {
    return spec_refuse(reason, TTRPC_INVALID_ARGUMENT, "mounts", "has over 512 entries", "");
  }
  spec->mounts = arena_allocate((message->n_mounts + 1) * sizeof(struct mount_spec));
  if (spec->mounts == NULL) {
    return spec_refuse(reason, TTRPC_RESOURCE_EXHAUSTED, "mounts", "need more memory than there is",
                       "");
  }
  for (size_t i = 0; i < message->n_mounts; i++) {
    const int code = spec_read_mount(message->mounts[i], &spec->mounts[i], reason);
    if (code != 0) {
      return code;
    }
  }
  spec->mount_count = message->n_mounts;
  return 0;
}

static bool device_type(const char* type, mode_t* mode) {
  const bool known = type[0] != '\0' && type[1] == '\0' && strchr("bcup", type[0]) != NULL;
  if (known) {
    *mode = type[0] == 'b' ? S_IFBLK : (type[0] == 'p' ? S_IFIFO : S_IFCHR);
  }
  return known;
}

static int read_device(const OciDevice* from, struct device_spec* to, struct text* reason) {
  mode_t type;
  if (!is_absolute(from->path)) {
    return spec_refuse(reason, TTRPC_INVALID_ARGUMENT, "linux.devices.path",
                       "must be absolute: ", from->path);
  }
  if (!device_type(from->type, &type)) {
    return spec_refuse(reason, TTRPC_INVALID_ARGUMENT, "linux.devices.type",
                       "must be b, c, u or p: ", from->path);
  }
  const bool has_number = type != S_IFIFO;
  if (has_number && (from->major < 0 || from->minor < 0 || from->major > UINT16_MAX ||
                     from->minor > (1 << 20) - 1)) {
    return spec_refuse(reason, TTRPC_INVALID_ARGUMENT, "linux.devices",
                       "has a number out of range: ", from->path);
  }
  const mode_t bits = from->filemode == 0 ? kDefaultMode : from->filemode & kModeBits;
  *to = (struct device_spec){
      .path = from->path,
      .mode = type | bits,
      .number = has_number ? makedev((unsigned)from->major, (unsigned)from->minor) : 0,
      .uid = from->uid,
      .gid = from->gid,
  };
  return 0;
}

int spec_read_devices(const OciLinux* message, struct container_spec* spec, struct text* reason) {
  if (message->n_devices > MAX_DEVICES) {
    return spec_refuse(reason, TTRPC_INVALID_ARGUMENT, "linux.devices", "has over 256 entries", "");
  }
  spec->devices = arena_allocate((message->n_devices + 1) * sizeof(struct device_spec));
  if (spec->devices == NULL) {
    return spec_refuse(reason, TTRPC_RESOURCE_EXHAUSTED, "linux.devices",
                       "need more memory than there is", "");
  }
  for (size_t i = 0; i < message->n_devices; i++) {
    const int code = read_device(message->devices[i], &spec->devices[i], reason);
    if (code != 0) {
      return code;
    }
  }
  spec->device_count = message->n_devices;
  return 0;
}

int spec_check_paths(char** paths, size_t count, const char* field, struct text* reason) {
  if (count > MAX_PATHS) {
    return spec_refuse(reason, TTRPC_INVALID_ARGUMENT, field, "has over 512 entries", "");
  }
  for (size_t i = 0; i < count; i++) {
    if (!is_absolute(paths[i])) {
      return spec_refuse(reason, TTRPC_INVALID_ARGUMENT, field, "must be absolute: ", paths[i]);
    }
  }
  return 0;
}
