#include "page.h"

#include <string.h>

#include "../arena.h"
#include "../text.h"

bool page_start(struct page* page, size_t size) {
  *page = (struct page){.data = arena_allocate(size), .size = size};
  if (page->data == NULL) {
    return false;
  }
  page->data[0] = '\0';
  return true;
}

static void add(struct page* page, const char* bytes, size_t length) {
  if (page->cut || length >= page->size - page->length) {
    page->cut = true;
    return;
  }
  memcpy(page->data + page->length, bytes, length);
  page->length += length;
  page->data[page->length] = '\0';
}

void page_add(struct page* page, const char* string) { add(page, string, strlen(string)); }

void page_add_number(struct page* page, uint64_t number) {
  struct text digits;
  text_clear(&digits);
  text_add_number(&digits, number);
  add(page, digits.data, digits.length);
}

void page_add_cell(struct page* page, const char* string, size_t width, bool right) {
  const size_t length = strlen(string);
  if (!right) {
    add(page, string, length);
  }
  for (size_t i = length; i < width; i++) {
    add(page, " ", 1);
  }
  if (right) {
    add(page, string, length);
  }
}
