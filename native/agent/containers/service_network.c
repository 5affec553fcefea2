// The methods that are about the network of the guest.
#include <errno.h>

#include "../text.h"
#include "files.h"
#include "messages.h"
#include "netlink.h"
#include "network.h"
#include "service.h"

// -1 when the call was answered with an error.
static int open_netlink(const struct call* call) {
  const int fd = netlink_open();
  if (fd < 0) {
    struct text reason;
    text_failure(&reason, "socket(AF_NETLINK)", NULL, errno);
    call_fail(call, TTRPC_INTERNAL, reason.data);
  }
  return fd;
}

static void fail(const struct call* call, int code, const struct text* reason) {
  call_fail(call, (enum ttrpc_code)code, reason->data);
}

void list_interfaces(const struct call* call) {
  if (call_decode(call, &grpc__list_interfaces_request__descriptor) == NULL) {
    return;
  }
  __attribute__((cleanup(close_descriptor))) const int fd = open_netlink(call);
  if (fd < 0) {
    return;
  }
  Grpc__Interfaces interfaces = GRPC__INTERFACES__INIT;
  struct text reason;
  const int code = network_list_interfaces(fd, &interfaces, &reason);
  if (code == 0) {
    reply_large(call, &interfaces.base);
  } else {
    fail(call, code, &reason);
  }
}

void update_interface(const struct call* call) {
  const Grpc__UpdateInterfaceRequest* request =
      call_decode(call, &grpc__update_interface_request__descriptor);
  if (request == NULL) {
    return;
  }
  if (request->interface == NULL) {
    call_fail(call, TTRPC_INVALID_ARGUMENT, "there is no interface in the request");
    return;
  }
  __attribute__((cleanup(close_descriptor))) const int fd = open_netlink(call);
  if (fd < 0) {
    return;
  }
  struct text reason;
  const int code = network_update_interface(fd, request->interface, &reason);
  if (code == 0) {
    reply_large(call, &request->interface->base);
  } else {
    fail(call, code, &reason);
  }
}

static void reply_routes(const struct call* call, int fd) {
  Grpc__Routes routes = GRPC__ROUTES__INIT;
  struct text reason;
  const int code = network_list_routes(fd, &routes, &reason);
  if (code == 0) {
    reply_large(call, &routes.base);
  } else {
    fail(call, code, &reason);
  }
}

void list_routes(const struct call* call) {
  if (call_decode(call, &grpc__list_routes_request__descriptor) == NULL) {
    return;
  }
  __attribute__((cleanup(close_descriptor))) const int fd = open_netlink(call);
  if (fd >= 0) {
    reply_routes(call, fd);
  }
}

void update_routes(const struct call* call) {
  const Grpc__UpdateRoutesRequest* request =
      call_decode(call, &grpc__update_routes_request__descriptor);
  if (request == NULL) {
    return;
  }
  __attribute__((cleanup(close_descriptor))) const int fd = open_netlink(call);
  if (fd < 0) {
    return;
  }
  struct text reason;
  const int code =
      request->routes == NULL ? 0 : network_update_routes(fd, request->routes, &reason);
  if (code == 0) {
    reply_routes(call, fd);
  } else {
    fail(call, code, &reason);
  }
}

void add_arp_neighbors(const struct call* call) {
  const Grpc__AddARPNeighborsRequest* request =
      call_decode(call, &grpc__add_arpneighbors_request__descriptor);
  if (request == NULL) {
    return;
  }
  __attribute__((cleanup(close_descriptor))) const int fd = open_netlink(call);
  if (fd < 0) {
    return;
  }
  struct text reason;
  const int code =
      request->neighbors == NULL ? 0 : network_add_neighbors(fd, request->neighbors, &reason);
  if (code == 0) {
    reply_empty(call);
  } else {
    fail(call, code, &reason);
  }
}
