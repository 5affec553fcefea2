// The network of the guest: interfaces, routes and neighbours of the network namespace
// that the service is in. Each function is 0 or a code with the reason; `fd` is that of
// netlink_open. What is told of is in the arena.
#ifndef EMBERVM_CONTAINERS_NETWORK_H_
#define EMBERVM_CONTAINERS_NETWORK_H_

#include "../text.h"
#include "messages.h"

int network_list_interfaces(int fd, Grpc__Interfaces* interfaces, struct text* reason);
// Gives the interface with this hardware address its name, its MTU and these addresses
// alone, and brings it up.
int network_update_interface(int fd, const Types__Interface* wanted, struct text* reason);

// Those of the main table that the kernel has not made itself.
int network_list_routes(int fd, Grpc__Routes* routes, struct text* reason);
// Adds them, or changes those that have the same destination; those that lead through
// no gateway first, as the others may need them.
int network_update_routes(int fd, const Grpc__Routes* routes, struct text* reason);
int network_add_neighbors(int fd, const Grpc__ARPNeighbors* neighbors, struct text* reason);

// --- Shared

// What the kernel says to a request.
int network_failed(const char* what, const char* about, int error, struct text* reason);
int network_refused(const char* why, const char* about, struct text* reason);

#endif  // EMBERVM_CONTAINERS_NETWORK_H_
