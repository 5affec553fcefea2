// What the parts of the reading of a configuration share.
#ifndef EMBERVM_CONTAINERS_SPEC_PRIVATE_H_
#define EMBERVM_CONTAINERS_SPEC_PRIVATE_H_

#include "../ttrpc.h"
#include "spec.h"

// "<field> <why><value>"; returns the code.
int spec_refuse(struct text* reason, enum ttrpc_code code, const char* field, const char* why,
                const char* value);

int spec_read_mounts(const OciSpec* message, struct container_spec* spec, struct text* reason);
int spec_read_devices(const OciLinux* message, struct container_spec* spec, struct text* reason);
int spec_check_paths(char** paths, size_t count, const char* field, struct text* reason);

#endif  // EMBERVM_CONTAINERS_SPEC_PRIVATE_H_
