// The OCI system call filter as a program of classic BPF: a binary search over the
// numbers, so that a call costs a dozen steps and not one per name. The kernel runs
// the program once for each number when it is loaded, to learn which it always
// allows, so its shape is most of what a filter costs.
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <string.h>

#include "../arena.h"
#include "spec.h"
#include "spec_private.h"
#include "syscalls.inc"

// Numbers beyond the table get the default action.
enum { kCalls = 512, kMaxProgram = 4096, kMaxArguments = 6, kDefaultErrno = 1 /* EPERM */ };

struct rule {
  const OciSyscall* syscall;
  uint32_t action;
  struct rule* next;
};

struct compiler {
  struct sock_filter* program;
  size_t length;
  bool full;
  uint32_t otherwise;
  // NULL: the default action.
  struct rule* calls[kCalls];
};

static int find_call(const char* name) {
  size_t from = 0;
  size_t to = sizeof(kSyscalls) / sizeof(kSyscalls[0]);
  while (from < to) {
    const size_t middle = from + (to - from) / 2;
    const int order = strcmp(kSyscalls[middle].name, name);
    if (order == 0) {
      return kSyscalls[middle].number;
    }
    if (order < 0) {
      from = middle + 1;
    } else {
      to = middle;
    }
  }
  return -1;
}

static bool read_action(const char* name, uint32_t number, uint32_t* action) {
  static const struct {
    const char* name;
    uint32_t action;
    bool numbered;
  } actions[] = {
      {"SCMP_ACT_ALLOW", SECCOMP_RET_ALLOW, false},
      {"SCMP_ACT_ERRNO", SECCOMP_RET_ERRNO, true},
      {"SCMP_ACT_KILL", SECCOMP_RET_KILL_THREAD, false},
      {"SCMP_ACT_KILL_THREAD", SECCOMP_RET_KILL_THREAD, false},
      {"SCMP_ACT_KILL_PROCESS", SECCOMP_RET_KILL_PROCESS, false},
      {"SCMP_ACT_TRAP", SECCOMP_RET_TRAP, false},
      {"SCMP_ACT_TRACE", SECCOMP_RET_TRACE, true},
      {"SCMP_ACT_LOG", SECCOMP_RET_LOG, false},
  };
  for (size_t i = 0; i < sizeof(actions) / sizeof(actions[0]); i++) {
    if (strcmp(actions[i].name, name) == 0) {
      *action = actions[i].action | (actions[i].numbered ? number & SECCOMP_RET_DATA : 0);
      return true;
    }
  }
  return false;
}

static void emit(struct compiler* to, uint16_t code, uint32_t value, uint8_t if_true,
                 uint8_t if_false) {
  if (to->length == kMaxProgram) {
    to->full = true;
    return;
  }
  to->program[to->length++] =
      (struct sock_filter){.code = code, .jt = if_true, .jf = if_false, .k = value};
}

static void emit_return(struct compiler* to, uint32_t action) {
  emit(to, BPF_RET | BPF_K, action, 0, 0);
}

// A jump whose distance is filled in by `land`.
static size_t emit_jump(struct compiler* to) {
  emit(to, BPF_JMP | BPF_JA, 0, 0, 0);
  return to->length - 1;
}

static void land(struct compiler* to, size_t jump) {
  if (!to->full) {
    to->program[jump].k = (uint32_t)(to->length - jump - 1);
  }
}

static void emit_load_half(struct compiler* to, size_t argument, bool high) {
  const size_t offset =
      offsetof(struct seccomp_data, args) + argument * sizeof(uint64_t) + (high ? 4 : 0);
  emit(to, BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset, 0, 0);
}

enum { kMaxExits = 4 };

// One comparison of 64 bits by halves: falls through when it holds; the jumps taken
// when it does not are added to `exits`.
static void emit_compare(struct compiler* to, const OciSeccompArg* argument, size_t* exits,
                         size_t* exit_count) {
  const uint64_t value =
      strcmp(argument->op, "SCMP_CMP_MASKED_EQ") == 0 ? argument->valuetwo : argument->value;
  const uint32_t high = (uint32_t)(value >> 32);
  const uint32_t low = (uint32_t)value;
  const size_t index = (size_t)argument->index;
  *exit_count = 0;
  if (strcmp(argument->op, "SCMP_CMP_EQ") == 0 || strcmp(argument->op, "SCMP_CMP_MASKED_EQ") == 0) {
    const bool masked = argument->op[strlen("SCMP_CMP_")] == 'M';
    for (int half = 1; half >= 0; half--) {
      emit_load_half(to, index, half == 1);
      if (masked) {
        emit(to, BPF_ALU | BPF_AND | BPF_K,
             half == 1 ? (uint32_t)(argument->value >> 32) : (uint32_t)argument->value, 0, 0);
      }
      emit(to, BPF_JMP | BPF_JEQ | BPF_K, half == 1 ? high : low, 1, 0);
      exits[(*exit_count)++] = emit_jump(to);
    }
    return;
  }
  if (strcmp(argument->op, "SCMP_CMP_NE") == 0) {
    emit_load_half(to, index, true);
    // Another high half: it holds, beyond the load, the comparison and the jump.
    emit(to, BPF_JMP | BPF_JEQ | BPF_K, high, 0, 3);
    emit_load_half(to, index, false);
    emit(to, BPF_JMP | BPF_JEQ | BPF_K, low, 0, 1);
    exits[(*exit_count)++] = emit_jump(to);
    return;
  }
  // GT and GE hold, LT and LE fail, when the high half is greater.
  const bool greater = argument->op[strlen("SCMP_CMP_")] == 'G';
  // GE and LT ask for "at least", GT and LE for "more than".
  const bool at_least =
      strcmp(argument->op, "SCMP_CMP_GE") == 0 || strcmp(argument->op, "SCMP_CMP_LT") == 0;
  const uint16_t test = at_least ? BPF_JGE : BPF_JGT;
  emit_load_half(to, index, true);
  if (greater) {
    // Greater: to the end. Equal: on. Less: out.
    emit(to, BPF_JMP | BPF_JGT | BPF_K, high, 5, 0);
    emit(to, BPF_JMP | BPF_JEQ | BPF_K, high, 1, 0);
    exits[(*exit_count)++] = emit_jump(to);
    emit_load_half(to, index, false);
    emit(to, BPF_JMP | test | BPF_K, low, 1, 0);
    exits[(*exit_count)++] = emit_jump(to);
  } else {
    // Greater: out. Equal: on. Less: to the end.
    emit(to, BPF_JMP | BPF_JGT | BPF_K, high, 0, 1);
    exits[(*exit_count)++] = emit_jump(to);
    emit(to, BPF_JMP | BPF_JEQ | BPF_K, high, 0, 3);
    emit_load_half(to, index, false);
    emit(to, BPF_JMP | test | BPF_K, low, 0, 1);
    exits[(*exit_count)++] = emit_jump(to);
  }
}

// The first rule whose arguments match decides.
static void emit_rules(struct compiler* to, const struct rule* rules) {
  for (const struct rule* rule = rules; rule != NULL; rule = rule->next) {
    size_t exits[kMaxArguments * kMaxExits];
    size_t count = 0;
    for (size_t i = 0; i < rule->syscall->n_args; i++) {
      size_t some = 0;
      emit_compare(to, rule->syscall->args[i], exits + count, &some);
      count += some;
    }
    emit_return(to, rule->action);
    if (rule->syscall->n_args == 0) {
      return;
    }
    for (size_t i = 0; i < count; i++) {
      land(to, exits[i]);
    }
  }
  emit_return(to, to->otherwise);
}

// The one action of a call whatever its arguments are.
static bool is_plain(const struct compiler* of, const struct rule* rule, uint32_t* action) {
  *action = rule == NULL ? of->otherwise : rule->action;
  return rule == NULL || rule->syscall->n_args == 0;
}

static size_t same_until(const struct compiler* of, size_t from, size_t to) {
  uint32_t first;
  if (!is_plain(of, of->calls[from], &first)) {
    return from + 1;
  }
  size_t at = from + 1;
  for (uint32_t action; at < to && is_plain(of, of->calls[at], &action) && action == first;) {
    at++;
  }
  return at;
}

// Those below `to`; the accumulator has the number. The depth is that of a binary search.
static void emit_search(struct compiler* to, size_t from, size_t until) {
  if (to->full) {
    return;
  }
  if (same_until(to, from, until) == until) {
    emit_rules(to, to->calls[from]);
    return;
  }
  const size_t middle = from + (until - from) / 2;
  emit(to, BPF_JMP | BPF_JGE | BPF_K, (uint32_t)middle, 0, 1);
  const size_t upper = emit_jump(to);
  emit_search(to, from, middle);
  land(to, upper);
  emit_search(to, middle, until);
}

static int check_argument(const OciSeccompArg* argument, struct text* reason) {
  static const char* const operators[] = {"SCMP_CMP_NE",       "SCMP_CMP_LT", "SCMP_CMP_LE",
                                          "SCMP_CMP_EQ",       "SCMP_CMP_GE", "SCMP_CMP_GT",
                                          "SCMP_CMP_MASKED_EQ"};
  bool known = false;
  for (size_t i = 0; i < sizeof(operators) / sizeof(operators[0]); i++) {
    known |= strcmp(operators[i], argument->op) == 0;
  }
  if (!known) {
    return spec_refuse(reason, TTRPC_INVALID_ARGUMENT, "linux.seccomp.syscalls.args.op",
                       "is unknown: ", argument->op);
  }
  if (argument->index >= kMaxArguments) {
    return spec_refuse(reason, TTRPC_INVALID_ARGUMENT, "linux.seccomp.syscalls.args.index",
                       "must be 0 to 5", "");
  }
  return 0;
}

static int add_rule(struct compiler* to, const OciSyscall* syscall, uint32_t action,
                    struct text* reason) {
  for (size_t i = 0; i < syscall->n_names; i++) {
    // One of another architecture or of a later kernel: nothing here can call it.
    const int number = find_call(syscall->names[i]);
    if (number < 0 || number >= kCalls) {
      continue;
    }
    struct rule* rule = arena_allocate(sizeof(*rule));
    if (rule == NULL) {
      return spec_refuse(reason, TTRPC_RESOURCE_EXHAUSTED, "linux.seccomp",
                         "needs more memory than there is", "");
    }
    *rule = (struct rule){syscall, action, NULL};
    struct rule** at = &to->calls[number];
    while (*at != NULL) {
      at = &(*at)->next;
    }
    *at = rule;
  }
  return 0;
}

static int read_rule(struct compiler* to, const OciSyscall* syscall, struct text* reason) {
  uint32_t action;
  const bool numbered = syscall->errno_ret_case == GRPC__LINUX_SYSCALL__ERRNO_RET_ERRNORET;
  if (!read_action(syscall->action, numbered ? syscall->errnoret : kDefaultErrno, &action)) {
    return spec_refuse(reason, TTRPC_UNIMPLEMENTED, "linux.seccomp.syscalls.action",
                       "is not supported: ", syscall->action);
  }
  if (syscall->n_names == 0 || syscall->n_args > kMaxArguments) {
    return spec_refuse(reason, TTRPC_INVALID_ARGUMENT, "linux.seccomp.syscalls",
                       "must have names, and at most 6 args", "");
  }
  for (size_t i = 0; i < syscall->n_args; i++) {
    const int code = check_argument(syscall->args[i], reason);
    if (code != 0) {
      return code;
    }
  }
  // What all do anyway needs no rule.
  return action == to->otherwise && syscall->n_args == 0 ? 0
                                                         : add_rule(to, syscall, action, reason);
}

static int read_flags(const OciSeccomp* message, unsigned* flags, struct text* reason) {
  *flags = 0;
  for (size_t i = 0; i < message->n_flags; i++) {
    if (strcmp(message->flags[i], "SECCOMP_FILTER_FLAG_LOG") == 0) {
      *flags |= SECCOMP_FILTER_FLAG_LOG;
    } else if (strcmp(message->flags[i], "SECCOMP_FILTER_FLAG_SPEC_ALLOW") == 0) {
      *flags |= SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    } else if (strcmp(message->flags[i], "SECCOMP_FILTER_FLAG_TSYNC") != 0) {
      // A process that is about to run its first program has one thread: TSYNC is kept.
      return spec_refuse(reason, TTRPC_UNIMPLEMENTED, "linux.seccomp.flags",
                         "is not supported: ", message->flags[i]);
    }
  }
  return 0;
}

static int check_architectures(const OciSeccomp* message, struct text* reason) {
  // The kernel runs programs of the first kind alone; the other two may be named.
  static const char* const known[] = {"SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"};
  for (size_t i = 0; i < message->n_architectures; i++) {
    bool found = false;
    for (size_t k = 0; k < sizeof(known) / sizeof(known[0]); k++) {
      found |= strcmp(known[k], message->architectures[i]) == 0;
    }
    if (!found) {
      return spec_refuse(reason, TTRPC_INVALID_ARGUMENT, "linux.seccomp.architectures",
                         "is none of the guest's: ", message->architectures[i]);
    }
  }
  return 0;
}

int seccomp_compile(const OciSeccomp* message, struct container_spec* spec, struct text* reason) {
  struct compiler to = {.program = arena_allocate(kMaxProgram * sizeof(struct sock_filter))};
  if (to.program == NULL) {
    return spec_refuse(reason, TTRPC_RESOURCE_EXHAUSTED, "linux.seccomp",
                       "needs more memory than there is", "");
  }
  if (!read_action(message->defaultaction, kDefaultErrno, &to.otherwise)) {
    return spec_refuse(reason, TTRPC_UNIMPLEMENTED, "linux.seccomp.defaultAction",
                       "is not supported: ", message->defaultaction);
  }
  int code = check_architectures(message, reason);
  if (code == 0) {
    code = read_flags(message, &spec->filter_flags, reason);
  }
  for (size_t i = 0; code == 0 && i < message->n_syscalls; i++) {
    code = read_rule(&to, message->syscalls[i], reason);
  }
  if (code != 0) {
    return code;
  }
  emit(&to, BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch), 0, 0);
  emit(&to, BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
  emit_return(&to, SECCOMP_RET_KILL_PROCESS);
  emit(&to, BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr), 0, 0);
  emit(&to, BPF_JMP | BPF_JGE | BPF_K, kCalls, 0, 1);
  emit_return(&to, to.otherwise);
  emit_search(&to, 0, kCalls);
  if (to.full) {
    return spec_refuse(reason, TTRPC_INVALID_ARGUMENT, "linux.seccomp",
                       "is longer than the 4096 steps that the kernel takes", "");
  }
  spec->filter = to.program;
  spec->filter_length = to.length;
  return 0;
}
