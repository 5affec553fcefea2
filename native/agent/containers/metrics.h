// What the guest and this program do, in Prometheus' text format, by Kata's names.
#ifndef EMBERVM_CONTAINERS_METRICS_H_
#define EMBERVM_CONTAINERS_METRICS_H_

#include <stdbool.h>
#include <stdint.h>

#include "page.h"

// Whole lines, as many as fit the page. `proc` is the directory; what it does not have
// is left out. False when there is no memory.
bool metrics_write(struct page* page, int proc, uint64_t scrapes);

#endif  // EMBERVM_CONTAINERS_METRICS_H_
