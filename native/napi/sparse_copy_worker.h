// copySparse(from, to, durable): base/sparse_copy.h on a thread of Node's pool.
#ifndef EMBERVM_NAPI_SPARSE_COPY_WORKER_H_
#define EMBERVM_NAPI_SPARSE_COPY_WORKER_H_

#include <napi.h>

namespace embervm::napi {

Napi::Value CopySparseAsync(const Napi::CallbackInfo& info);

}  // namespace embervm::napi

#endif  // EMBERVM_NAPI_SPARSE_COPY_WORKER_H_
