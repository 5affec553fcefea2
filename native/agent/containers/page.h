// Text of many lines in a block of a bounded size, in the arena. What does not fit
// is left out and `cut` says so.
#ifndef EMBERVM_CONTAINERS_PAGE_H_
#define EMBERVM_CONTAINERS_PAGE_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct page {
  char* data;
  size_t size;
  size_t length;
  bool cut;
};

// False when there is no memory.
bool page_start(struct page* page, size_t size);
// Always followed by a NUL.
void page_add(struct page* page, const char* string);
void page_add_number(struct page* page, uint64_t number);
// With spaces in front or behind up to `width`.
void page_add_cell(struct page* page, const char* string, size_t width, bool right);

#endif  // EMBERVM_CONTAINERS_PAGE_H_
