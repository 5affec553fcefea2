// The generated messages under short names. The field `errno` of the protocol is
// `error_number` here: the build renames it, as libc has a macro of that name. For
// the same reason no file includes both this and <stdio.h>.
#ifndef EMBERVM_AGENT_MESSAGES_H_
#define EMBERVM_AGENT_MESSAGES_H_

#include "agent.pb-c.h"
#include "files.pb-c.h"

typedef Embervm__Agent__V1__GetInfoResponse GetInfoResponse;
typedef Embervm__Agent__V1__Mount Mount;
typedef Embervm__Agent__V1__OverlayRoot OverlayRoot;
typedef Embervm__Agent__V1__DirectoryRoot DirectoryRoot;
typedef Embervm__Agent__V1__SetUpRootRequest SetUpRootRequest;
typedef Embervm__Agent__V1__SetUpRootResponse SetUpRootResponse;
typedef Embervm__Agent__V1__GetMemoryResponse GetMemoryResponse;
typedef Embervm__Agent__V1__RestoredRequest RestoredRequest;
typedef Embervm__Agent__V1__RestoredResponse RestoredResponse;
typedef Embervm__Agent__V1__PowerOffRequest PowerOffRequest;
typedef Embervm__Agent__V1__PowerOffResponse PowerOffResponse;
typedef Embervm__Agent__V1__Terminal Terminal;
typedef Embervm__Agent__V1__Rlimit Rlimit;
typedef Embervm__Agent__V1__ExecStart ExecStart;
typedef Embervm__Agent__V1__ExecRequest ExecRequest;
typedef Embervm__Agent__V1__ExecStarted ExecStarted;
typedef Embervm__Agent__V1__ExecExited ExecExited;
typedef Embervm__Agent__V1__ExecFailed ExecFailed;
typedef Embervm__Agent__V1__ExecFailureKind ExecFailureKind;
typedef Embervm__Agent__V1__ExecEvent ExecEvent;
typedef Embervm__Agent__V1__SignalRequest SignalRequest;
typedef Embervm__Agent__V1__SignalResponse SignalResponse;
typedef Embervm__Agent__V1__ResizeRequest ResizeRequest;
typedef Embervm__Agent__V1__ResizeResponse ResizeResponse;
typedef Embervm__Agent__V1__FileRequest FileRequest;
typedef Embervm__Agent__V1__FileInfo FileInfo;
typedef Embervm__Agent__V1__FileEvent FileEvent;

#define EXEC_EVENT(name) EMBERVM__AGENT__V1__EXEC_EVENT__EVENT_##name
#define EXEC_REQUEST(name) EMBERVM__AGENT__V1__EXEC_REQUEST__REQUEST_##name
#define EXEC_FAILURE(name) EMBERVM__AGENT__V1__EXEC_FAILURE_KIND__EXEC_FAILURE_KIND_##name
#define FILE_FLAG(name) EMBERVM__AGENT__V1__FILE_FLAG__FILE_FLAG_##name
#define FILE_CHANGE(name) EMBERVM__AGENT__V1__FILE_CHANGE__FILE_CHANGE_##name

#endif  // EMBERVM_AGENT_MESSAGES_H_
