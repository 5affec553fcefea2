// Files, directories and links that the host puts below one directory of the guest,
// for containers to mount.
#ifndef EMBERVM_CONTAINERS_COPY_FILE_H_
#define EMBERVM_CONTAINERS_COPY_FILE_H_

#include "../text.h"
#include "messages.h"

#define COPY_FILE_ROOT "/run/kata-containers/shared/containers"

// One chunk of a file, or a whole directory or link. A file is not there before its
// last chunk. `root` is a descriptor of the directory, which no link leads out of;
// a file has at most `limit` bytes. 0, or a code with the reason.
int copy_file(int root, const Grpc__CopyFileRequest* request, uint64_t limit, struct text* reason);

#endif  // EMBERVM_CONTAINERS_COPY_FILE_H_
