// The device rules of a container as a BPF program on its control group: the last
// rule that fits decides, and without one nothing is allowed.
#include <errno.h>
#include <linux/bpf.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../arena.h"
#include "cgroup.h"

enum { kPerRule = 10, kFrame = 8, kTypeMask = 0xffff, kAccessShift = 16 };
enum { kEveryAccess = BPF_DEVCG_ACC_READ | BPF_DEVCG_ACC_WRITE | BPF_DEVCG_ACC_MKNOD };

struct program {
  struct bpf_insn* code;
  size_t length;
};

static void emit(struct program* to, uint8_t code, uint8_t target, uint8_t source, int16_t offset,
                 int32_t value) {
  // The registers are bit fields, which no conversion to is clean: by their place.
  struct bpf_insn step = {.code = code, .off = offset, .imm = value};
  const uint8_t registers = (uint8_t)(source << 4 | target);
  memcpy((uint8_t*)&step + 1, &registers, 1);
  to->code[to->length++] = step;
}

// r2: the type, r3: the access, r4: major, r5: minor, of what r1 points to.
static void emit_start(struct program* to) {
  emit(to, BPF_LDX | BPF_MEM | BPF_W, BPF_REG_2, BPF_REG_1, 0, 0);
  emit(to, BPF_ALU | BPF_MOV | BPF_X, BPF_REG_3, BPF_REG_2, 0, 0);
  emit(to, BPF_ALU | BPF_RSH | BPF_K, BPF_REG_3, 0, 0, kAccessShift);
  emit(to, BPF_ALU | BPF_AND | BPF_K, BPF_REG_2, 0, 0, kTypeMask);
  emit(to, BPF_LDX | BPF_MEM | BPF_W, BPF_REG_4, BPF_REG_1, 4, 0);
  emit(to, BPF_LDX | BPF_MEM | BPF_W, BPF_REG_5, BPF_REG_1, 8, 0);
}

static void emit_verdict(struct program* to, bool allow) {
  emit(to, BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, allow ? 1 : 0);
  emit(to, BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
}

static int32_t access_bits(const char* access) {
  int32_t bits = 0;
  for (const char* at = access; *at != '\0'; at++) {
    bits |=
        *at == 'r' ? BPF_DEVCG_ACC_READ : (*at == 'w' ? BPF_DEVCG_ACC_WRITE : BPF_DEVCG_ACC_MKNOD);
  }
  return bits == 0 ? kEveryAccess : bits;
}

static bool is_wildcard(const OciDeviceRule* rule) {
  return rule->type[0] == '\0' || rule->type[0] == 'a';
}

// A test that does not hold goes on behind the rule, at `end`.
static void emit_test(struct program* to, uint8_t code, uint8_t reg, int32_t value, size_t end) {
  emit(to, code, reg, 0, (int16_t)(end - to->length - 1), value);
}

static void emit_rule(struct program* to, const OciDeviceRule* rule) {
  const bool any = is_wildcard(rule);
  const int32_t bits = access_bits(rule->access);
  const bool all = bits == kEveryAccess;
  // An "a" of OCI is a rule for everything, whatever numbers it has.
  const bool by_major = !any && rule->major >= 0;
  const bool by_minor = !any && rule->minor >= 0;
  const size_t end =
      to->length + (any ? 0 : 1) + (all ? 0 : 3) + (by_major ? 1 : 0) + (by_minor ? 1 : 0) + 2;
  if (!any) {
    emit_test(to, BPF_JMP | BPF_JNE | BPF_K, BPF_REG_2,
              rule->type[0] == 'b' ? BPF_DEVCG_DEV_BLOCK : BPF_DEVCG_DEV_CHAR, end);
  }
  if (!all) {
    // A permission fits what asks for nothing more, a refusal what asks for any of it.
    emit(to, BPF_ALU | BPF_MOV | BPF_X, BPF_REG_1, BPF_REG_3, 0, 0);
    emit(to, BPF_ALU | BPF_AND | BPF_K, BPF_REG_1, 0, 0, rule->allow ? ~bits : bits);
    emit_test(to, BPF_JMP | (rule->allow ? BPF_JNE : BPF_JEQ) | BPF_K, BPF_REG_1, 0, end);
  }
  if (by_major) {
    emit_test(to, BPF_JMP | BPF_JNE | BPF_K, BPF_REG_4, (int32_t)rule->major, end);
  }
  if (by_minor) {
    emit_test(to, BPF_JMP | BPF_JNE | BPF_K, BPF_REG_5, (int32_t)rule->minor, end);
  }
  emit_verdict(to, rule->allow);
}

int cgroup_attach_devices(int group, int program) {
  union bpf_attr join = {.target_fd = (uint32_t)group,
                         .attach_bpf_fd = (uint32_t)program,
                         .attach_type = BPF_CGROUP_DEVICE};
  return syscall(SYS_bpf, BPF_PROG_ATTACH, &join, sizeof(join)) == 0 ? 0 : errno;
}

static int load(const struct program* program) {
  union bpf_attr attributes = {
      .prog_type = BPF_PROG_TYPE_CGROUP_DEVICE,
      .insn_cnt = (uint32_t)program->length,
      .insns = (uint64_t)(uintptr_t)program->code,
      .license = (uint64_t)(uintptr_t)"Apache-2.0",
  };
  return (int)syscall(SYS_bpf, BPF_PROG_LOAD, &attributes, sizeof(attributes));
}

static void compile(struct program* to, const OciResources* resources) {
  emit_start(to);
  // What stands before a rule for everything never decides: the verifier would
  // refuse it as unreachable.
  for (size_t i = resources->n_devices; i > 0; i--) {
    const OciDeviceRule* rule = resources->devices[i - 1];
    emit_rule(to, rule);
    if (is_wildcard(rule) && access_bits(rule->access) == kEveryAccess) {
      return;
    }
  }
  emit_verdict(to, false);
}

int cgroup_load_devices(const OciResources* resources, int* error, struct text* reason) {
  *error = 0;
  if (resources == NULL || resources->n_devices == 0) {
    return -1;
  }
  struct program program = {
      .code = arena_allocate((resources->n_devices * kPerRule + kFrame) * sizeof(struct bpf_insn))};
  int fd = -1;
  errno = ENOMEM;
  if (program.code != NULL) {
    compile(&program, resources);
    fd = load(&program);
  }
  if (fd < 0) {
    *error = errno;
    text_failure(reason, "load linux.resources.devices", NULL, *error);
  }
  return fd;
}
