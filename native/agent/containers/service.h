// What the methods of the service share.
#ifndef EMBERVM_CONTAINERS_SERVICE_H_
#define EMBERVM_CONTAINERS_SERVICE_H_

#include <stdbool.h>

#include "../server.h"
#include "containers.h"

bool service_has_sandbox(void);

void reply_empty(const struct call* call);
// For answers of more than AGENT_REPLY_ROOM: sent when the connection has room for
// it. Over MAX_ANSWER it is an error.
void reply_large(const struct call* call, const ProtobufCMessage* message);

// NULL when the call was answered with an error.
struct container* find_container(const struct call* call, const char* id);

// --- Of other files

void stats_container(const struct call* call);
void list_processes(const struct call* call);
void copy_file_chunk(const struct call* call);
void get_guest_details(const struct call* call);
void reseed_random_dev(const struct call* call);
void online_cpu_mem(const struct call* call);
void mem_hotplug_by_probe(const struct call* call);
void get_metrics(const struct call* call);
void update_interface(const struct call* call);
void list_interfaces(const struct call* call);
void update_routes(const struct call* call);
void list_routes(const struct call* call);
void add_arp_neighbors(const struct call* call);

#endif  // EMBERVM_CONTAINERS_SERVICE_H_
