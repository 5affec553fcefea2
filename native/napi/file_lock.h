// Locks on open file descriptions (fcntl(2), F_OFD_SETLK), which Node lacks. The
// kernel drops one when its descriptor is closed, also when the process is
// killed; unlike record locks of POSIX they hold between the threads of one
// process, and closing another descriptor of the file does not drop them.
#ifndef EMBERVM_NAPI_FILE_LOCK_H_
#define EMBERVM_NAPI_FILE_LOCK_H_

#include <napi.h>

namespace embervm::napi {

// lockFile(fd): true when the whole file is locked now, false when somebody else has it. Never
// waits. Synchronous: the kernel only looks at a list in memory.
Napi::Value LockFile(const Napi::CallbackInfo& info);
// isFileLocked(fd): whether somebody else has the file locked, without locking it.
Napi::Value IsFileLocked(const Napi::CallbackInfo& info);

}  // namespace embervm::napi

#endif  // EMBERVM_NAPI_FILE_LOCK_H_
