// From an embedded member to the object that holds it.
#ifndef EMBERVM_AGENT_CONTAINER_H_
#define EMBERVM_AGENT_CONTAINER_H_

#include <stddef.h>

#define CONTAINER_OF(pointer, type, member) \
  ((type*)(void*)((char*)(pointer) - offsetof(type, member)))

#endif  // EMBERVM_AGENT_CONTAINER_H_
