// Small files of the kernel: one write, one read.
#ifndef EMBERVM_CONTAINERS_FILES_H_
#define EMBERVM_CONTAINERS_FILES_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../text.h"

// 0 or an errno, with the reason. A relative path is below `directory`.
int file_write(int directory, const char* path, const char* value, struct text* reason);
// What fits into `size` bytes, ended by NUL. Its length, or -1 with errno.
long file_read(int directory, const char* path, char* to, size_t size);
// A file that is one number; "max" is UINT64_MAX. False when it is not.
bool file_number(int directory, const char* path, uint64_t* number);
// The number in the line "<key> <number>".
bool file_field(const char* content, const char* key, uint64_t* number);

// Makes the directories of a path that are missing. 0 or an errno.
int directories_make(const char* path, unsigned mode);

// For __attribute__((cleanup)).
void close_descriptor(const int* fd);

#endif  // EMBERVM_CONTAINERS_FILES_H_
