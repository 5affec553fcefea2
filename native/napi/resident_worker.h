// Counts the resident bytes of a guest's memory on a thread of Node's pool.
#ifndef EMBERVM_NAPI_RESIDENT_WORKER_H_
#define EMBERVM_NAPI_RESIDENT_WORKER_H_

#include <napi.h>

#include <cstdint>
#include <functional>
#include <optional>

namespace embervm::napi {

// A promise of what `count` finds; ERR_MACHINE_CLOSED when it finds no memory.
Napi::Promise CountResidentBytes(Napi::Env env,
                                 std::function<std::optional<std::uint64_t>()> count);

}  // namespace embervm::napi

#endif  // EMBERVM_NAPI_RESIDENT_WORKER_H_
