#include "tables.h"

#include <linux/capability.h>
#include <sched.h>
#include <stddef.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>

#include "mount_calls.h"

// In the order of their numbers.
static const char* const kCapabilities[] = {
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
};

struct number {
  const char* name;
  int number;
};

static const struct number kLimits[] = {
    {"AS", RLIMIT_AS},           {"CORE", RLIMIT_CORE},         {"CPU", RLIMIT_CPU},
    {"DATA", RLIMIT_DATA},       {"FSIZE", RLIMIT_FSIZE},       {"LOCKS", RLIMIT_LOCKS},
    {"MEMLOCK", RLIMIT_MEMLOCK}, {"MSGQUEUE", RLIMIT_MSGQUEUE}, {"NICE", RLIMIT_NICE},
    {"NOFILE", RLIMIT_NOFILE},   {"NPROC", RLIMIT_NPROC},       {"RSS", RLIMIT_RSS},
    {"RTPRIO", RLIMIT_RTPRIO},   {"RTTIME", RLIMIT_RTTIME},     {"SIGPENDING", RLIMIT_SIGPENDING},
    {"STACK", RLIMIT_STACK},
};

static const struct number kNamespaces[] = {
    {"cgroup", CLONE_NEWCGROUP}, {"ipc", CLONE_NEWIPC}, {"mount", CLONE_NEWNS},
    {"network", CLONE_NEWNET},   {"pid", CLONE_NEWPID}, {"uts", CLONE_NEWUTS},
};

#define COUNT(table) (sizeof(table) / sizeof((table)[0]))

// The part behind `prefix`, or NULL.
static const char* behind(const char* name, const char* prefix) {
  const size_t length = strlen(prefix);
  return strncmp(name, prefix, length) == 0 ? name + length : NULL;
}

static int find_number(const struct number* table, size_t count, const char* name, int otherwise) {
  for (size_t i = 0; i < count; i++) {
    if (strcmp(table[i].name, name) == 0) {
      return table[i].number;
    }
  }
  return otherwise;
}

bool capability_bit(const char* name, uint64_t* bit) {
  const char* rest = behind(name, "CAP_");
  for (size_t i = 0; rest != NULL && i < COUNT(kCapabilities); i++) {
    if (strcmp(kCapabilities[i], rest) == 0) {
      *bit = UINT64_C(1) << i;
      return true;
    }
  }
  return false;
}

int limit_number(const char* name) {
  const char* rest = behind(name, "RLIMIT_");
  return rest == NULL ? -1 : find_number(kLimits, COUNT(kLimits), rest, -1);
}

int namespace_flag(const char* name) {
  return find_number(kNamespaces, COUNT(kNamespaces), name, 0);
}

#define ON(attribute) .set = ATTRIBUTE_##attribute
#define OFF(attribute) .clear = ATTRIBUTE_##attribute
#define EVERY .recursive = true
// The kinds of access time are one number: a new one replaces the old.
#define TIMES(attribute) .set = ATTRIBUTE_##attribute, .clear = ATTRIBUTE_ATIME

static const struct mount_option kOptions[] = {
    {"defaults", .set = 0},
    {"ro", ON(RDONLY)},
    {"rw", OFF(RDONLY)},
    {"nosuid", ON(NOSUID)},
    {"suid", OFF(NOSUID)},
    {"nodev", ON(NODEV)},
    {"dev", OFF(NODEV)},
    {"noexec", ON(NOEXEC)},
    {"exec", OFF(NOEXEC)},
    {"noatime", TIMES(NOATIME)},
    {"atime", OFF(ATIME)},
    {"relatime", OFF(ATIME)},
    {"strictatime", TIMES(STRICTATIME)},
    {"nostrictatime", OFF(ATIME)},
    {"nodiratime", ON(NODIRATIME)},
    {"diratime", OFF(NODIRATIME)},
    {"rro", ON(RDONLY), EVERY},
    {"rrw", OFF(RDONLY), EVERY},
    {"rnosuid", ON(NOSUID), EVERY},
    {"rsuid", OFF(NOSUID), EVERY},
    {"rnodev", ON(NODEV), EVERY},
    {"rdev", OFF(NODEV), EVERY},
    {"rnoexec", ON(NOEXEC), EVERY},
    {"rexec", OFF(NOEXEC), EVERY},
    {"rnoatime", TIMES(NOATIME), EVERY},
    {"rrelatime", OFF(ATIME), EVERY},
    {"bind", .bind = true},
    {"rbind", .bind = true, .recursive = true},
    {"private", .propagation = MS_PRIVATE},
    {"rprivate", .propagation = MS_PRIVATE | MS_REC},
    {"slave", .propagation = MS_SLAVE},
    {"rslave", .propagation = MS_SLAVE | MS_REC},
    {"shared", .propagation = MS_SHARED},
    {"rshared", .propagation = MS_SHARED | MS_REC},
    {"unbindable", .propagation = MS_UNBINDABLE},
    {"runbindable", .propagation = MS_UNBINDABLE | MS_REC},
};

const struct mount_option* mount_option_find(const char* name) {
  for (size_t i = 0; i < COUNT(kOptions); i++) {
    if (strcmp(kOptions[i].name, name) == 0) {
      return &kOptions[i];
    }
  }
  return NULL;
}

unsigned long propagation_flag(const char* name) {
  const struct mount_option* option = mount_option_find(name);
  return option == NULL ? 0 : option->propagation;
}
