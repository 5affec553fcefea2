// nextData(fd, from, size): where a sparse file has data, which Node cannot ask for.
#ifndef EMBERVM_NAPI_NEXT_DATA_H_
#define EMBERVM_NAPI_NEXT_DATA_H_

#include <napi.h>

namespace embervm::napi {

// `{ begin, end }`, or undefined when only holes follow. Synchronous: the kernel looks at a list of
// extents.
Napi::Value NextData(const Napi::CallbackInfo& info);

}  // namespace embervm::napi

#endif  // EMBERVM_NAPI_NEXT_DATA_H_
