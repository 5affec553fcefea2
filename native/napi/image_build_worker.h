// buildImage({ layers, path, limits }): native/image on a thread of Node's pool.
#ifndef EMBERVM_NAPI_IMAGE_BUILD_WORKER_H_
#define EMBERVM_NAPI_IMAGE_BUILD_WORKER_H_

#include <napi.h>

namespace embervm::napi {

// Returns { done: Promise<report>, cancel(): void }.
Napi::Value BuildImageAsync(const Napi::CallbackInfo& info);

}  // namespace embervm::napi

#endif  // EMBERVM_NAPI_IMAGE_BUILD_WORKER_H_
