// Bounded text without printf, which would be a fifth of the binary. A text that
// does not fit is cut, never overrun, and always ends in NUL.
#ifndef EMBERVM_AGENT_TEXT_H_
#define EMBERVM_AGENT_TEXT_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "limits.h"

struct text {
  size_t length;
  bool cut;
  char data[AGENT_MESSAGE_SIZE];
};

void text_clear(struct text* text);
void text_add(struct text* text, const char* string);
void text_add_number(struct text* text, uint64_t number);

// Replaces the content by the strings up to a NULL.
void text_join(struct text* text, ...) __attribute__((sentinel));

// "<call>(<path>): <text of error>"; a NULL path leaves the parentheses out.
void text_failure(struct text* text, const char* call, const char* path, int error);

// Copies into `size` bytes; false when it does not fit, then nothing is copied.
bool text_copy(char* to, size_t size, const char* from, size_t length);

// Replaces what is not a printable ASCII character.
void text_make_printable(char* string);

// A decimal number and nothing else, at most `max`.
bool text_number(const char* from, size_t length, uint64_t max, uint64_t* number);

#endif  // EMBERVM_AGENT_TEXT_H_
