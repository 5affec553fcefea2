// What a machine must change when it goes on from a snapshot, so that it is not the
// twin of another that does the same.
#ifndef EMBERVM_AGENT_RESTORED_H_
#define EMBERVM_AGENT_RESTORED_H_

#include "messages.h"
#include "text.h"

// 0, or a ttrpc_code with the reason.
int restored_apply(const RestoredRequest* request, struct text* reason);

#endif  // EMBERVM_AGENT_RESTORED_H_
