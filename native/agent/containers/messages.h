// The generated messages under short names.
#ifndef EMBERVM_CONTAINERS_MESSAGES_H_
#define EMBERVM_CONTAINERS_MESSAGES_H_

#include "kata_agent.pb-c.h"
#include "kata_health.pb-c.h"

typedef Grpc__Spec OciSpec;
typedef Grpc__Process OciProcess;
typedef Grpc__Mount OciMount;
typedef Grpc__Hook OciHook;
typedef Grpc__Linux OciLinux;
typedef Grpc__LinuxNamespace OciNamespace;
typedef Grpc__LinuxDevice OciDevice;
typedef Grpc__LinuxDeviceCgroup OciDeviceRule;
typedef Grpc__LinuxCapabilities OciCapabilities;
typedef Grpc__LinuxResources OciResources;
typedef Grpc__LinuxSeccomp OciSeccomp;
typedef Grpc__LinuxSyscall OciSyscall;
typedef Grpc__LinuxSeccompArg OciSeccompArg;
typedef Grpc__Empty Empty;
typedef Grpc__CreateContainerRequest CreateContainerRequest;
typedef Grpc__ExecProcessRequest ExecProcessRequest;
typedef Grpc__StringUser StringUser;
typedef Grpc__Storage Storage;

#endif  // EMBERVM_CONTAINERS_MESSAGES_H_
