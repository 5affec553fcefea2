#include "text.h"

#include <stdarg.h>
#include <string.h>

void text_clear(struct text* text) {
  text->length = 0;
  text->cut = false;
  text->data[0] = '\0';
}

void text_add(struct text* text, const char* string) {
  const size_t room = sizeof(text->data) - 1 - text->length;
  size_t length = strlen(string);
  if (length > room) {
    length = room;
    text->cut = true;
    // A protobuf string must stay valid UTF-8: cut before a character, not in it.
    while (length > 0 && ((unsigned char)string[length] & 0xc0) == 0x80) {
      length--;
    }
  }
  memcpy(text->data + text->length, string, length);
  text->length += length;
  text->data[text->length] = '\0';
}

void text_add_number(struct text* text, uint64_t number) {
  char digits[21];
  size_t at = sizeof(digits) - 1;
  digits[at] = '\0';
  do {
    digits[--at] = (char)('0' + number % 10);
    number /= 10;
  } while (number > 0);
  text_add(text, digits + at);
}

void text_join(struct text* text, ...) {
  text_clear(text);
  va_list strings;
  va_start(strings, text);
  for (const char* string; (string = va_arg(strings, const char*)) != NULL;) {
    text_add(text, string);
  }
  va_end(strings);
}

void text_failure(struct text* text, const char* call, const char* path, int error) {
  text_join(text, call, path == NULL ? "" : "(", path == NULL ? "" : path,
            path == NULL ? ": " : "): ", strerror(error), NULL);
}

bool text_copy(char* to, size_t size, const char* from, size_t length) {
  if (length >= size) {
    return false;
  }
  memcpy(to, from, length);
  to[length] = '\0';
  return true;
}

void text_make_printable(char* string) {
  for (; *string != '\0'; string++) {
    if (*string < ' ' || *string > '~') {
      *string = '?';
    }
  }
}

bool text_number(const char* from, size_t length, uint64_t max, uint64_t* number) {
  if (length == 0) {
    return false;
  }
  uint64_t value = 0;
  for (size_t i = 0; i < length; i++) {
    if (from[i] < '0' || from[i] > '9') {
      return false;
    }
    const uint64_t digit = (uint64_t)(from[i] - '0');
    if (value > (max - digit) / 10) {
      return false;
    }
    value = value * 10 + digit;
  }
  *number = value;
  return true;
}
