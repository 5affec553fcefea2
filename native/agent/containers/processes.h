// The processes of a container, as ps(1) lists them.
#ifndef EMBERVM_CONTAINERS_PROCESSES_H_
#define EMBERVM_CONTAINERS_PROCESSES_H_

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "../text.h"
#include "page.h"

#define MAX_COLUMNS 16

struct column;

struct columns {
  const struct column* list[MAX_COLUMNS];
  size_t count;
};

// What the arguments of ps(1) select: none is "-ef". False with the reason.
bool columns_read(char** args, size_t count, struct columns* columns, struct text* reason);

// The processes of a control group and of those below it, by PID of the guest.
// 0 or an errno: ENOBUFS for more processes or groups than the bounds allow.
int processes_find(int group, pid_t* pids, size_t size, size_t* count);

// "[1,2]"
void processes_write_json(struct page* page, const pid_t* pids, size_t count);
// A header, and a line for each that is still there. `proc` is the directory.
void processes_write_table(struct page* page, int proc, const pid_t* pids, size_t count,
                           const struct columns* columns);

#endif  // EMBERVM_CONTAINERS_PROCESSES_H_
