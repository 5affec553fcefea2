#include <errno.h>
#include <linux/neighbour.h>
#include <net/if.h>
#include <string.h>
#include <sys/socket.h>

#include "../arena.h"
#include "../ttrpc.h"
#include "bounds.h"
#include "netlink.h"
#include "network.h"
#include "network_address.h"

// --- What there is

static char* write_device(uint32_t index) {
  char* name = arena_allocate(IF_NAMESIZE);
  if (name == NULL) {
    return NULL;
  }
  if (if_indextoname(index, name) == NULL) {
    // It went away meanwhile.
    name[0] = '\0';
  }
  text_make_printable(name);
  return name;
}

static uint32_t number_of(const struct nlmsghdr* message, uint16_t attribute) {
  uint32_t number = 0;
  const void* bytes = netlink_find(message, sizeof(struct rtmsg), attribute, sizeof(number), NULL);
  if (bytes != NULL) {
    memcpy(&number, bytes, sizeof(number));
  }
  return number;
}

static bool is_told_of(const struct nlmsghdr* message) {
  const struct rtmsg* header = NLMSG_DATA(message);
  return message->nlmsg_type == RTM_NEWROUTE &&
         message->nlmsg_len >= NLMSG_LENGTH(sizeof(*header)) &&
         (header->rtm_family == AF_INET || header->rtm_family == AF_INET6) &&
         header->rtm_type == RTN_UNICAST && header->rtm_protocol != RTPROT_KERNEL &&
         (header->rtm_flags & RTM_F_CLONED) == 0 && number_of(message, RTA_TABLE) == RT_TABLE_MAIN;
}

static uint32_t read_mtu(const struct nlmsghdr* message) {
  size_t length = 0;
  uint32_t mtu = 0;
  const void* metrics = netlink_find(message, sizeof(struct rtmsg), RTA_METRICS, 0, &length);
  const void* bytes =
      metrics == NULL ? NULL : netlink_find_nested(metrics, length, RTAX_MTU, sizeof(mtu));
  if (bytes != NULL) {
    memcpy(&mtu, bytes, sizeof(mtu));
  }
  return mtu;
}

static bool add_route(void* context, const struct nlmsghdr* message) {
  Grpc__Routes* routes = context;
  if (!is_told_of(message)) {
    return true;
  }
  const struct rtmsg* header = NLMSG_DATA(message);
  const size_t size = header->rtm_family == AF_INET6 ? 16 : 4;
  Types__Route* route = arena_allocate(sizeof(*route));
  if (route == NULL || routes->n_routes == MAX_ROUTES) {
    return false;
  }
  types__route__init(route);
  const struct {
    uint16_t attribute;
    char** to;
  } fields[] = {{RTA_GATEWAY, &route->gateway}, {RTA_PREFSRC, &route->source}};
  for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
    const void* bytes = netlink_find(message, sizeof(*header), fields[i].attribute, size, NULL);
    if (bytes != NULL && (*fields[i].to = address_write(header->rtm_family, bytes)) == NULL) {
      return false;
    }
  }
  const void* destination = netlink_find(message, sizeof(*header), RTA_DST, size, NULL);
  if (destination != NULL) {
    route->dest = address_write_range(header->rtm_family, destination, header->rtm_dst_len);
  }
  route->device = write_device(number_of(message, RTA_OIF));
  route->scope = header->rtm_scope;
  route->family = header->rtm_family == AF_INET6 ? TYPES__IPFAMILY__v6 : TYPES__IPFAMILY__v4;
  route->flags = header->rtm_flags;
  route->mtu = read_mtu(message);
  routes->routes[routes->n_routes++] = route;
  return route->dest != NULL && route->device != NULL;
}

int network_list_routes(int fd, Grpc__Routes* routes, struct text* reason) {
  routes->routes = arena_allocate(MAX_ROUTES * sizeof(routes->routes[0]));
  const int error = routes->routes == NULL
                        ? ENOMEM
                        : netlink_dump(fd, RTM_GETROUTE, AF_UNSPEC, add_route, routes);
  return error == 0 ? 0 : network_failed("list the routes", NULL, error, reason);
}

// --- Changes

struct route {
  struct rtmsg header;
  struct address to;
  struct address gateway;
  struct address source;
  unsigned device;
  uint32_t mtu;
};

static int find_device(const char* name, unsigned* index, struct text* reason) {
  *index = if_nametoindex(name);
  return *index != 0 ? 0 : network_refused("there is no such device: ", name, reason);
}

static int read_route(const Types__Route* from, struct route* route, struct text* reason) {
  if (!address_read_range(from->dest, from->family, &route->to)) {
    return network_refused("dest must be an address and a prefix, not ", from->dest, reason);
  }
  if (from->gateway[0] != '\0' && !address_read(from->gateway, from->family, &route->gateway)) {
    return network_refused("gateway must be an address, not ", from->gateway, reason);
  }
  if (from->source[0] != '\0' && !address_read(from->source, from->family, &route->source)) {
    return network_refused("source must be an address, not ", from->source, reason);
  }
  if (from->scope > UINT8_MAX) {
    return network_refused("scope must be at most 255", "", reason);
  }
  route->mtu = from->mtu;
  route->header = (struct rtmsg){.rtm_family = route->to.family,
                                 .rtm_dst_len = route->to.prefix,
                                 .rtm_table = RT_TABLE_MAIN,
                                 .rtm_protocol = RTPROT_BOOT,
                                 .rtm_scope = (uint8_t)from->scope,
                                 .rtm_type = RTN_UNICAST,
                                 .rtm_flags = from->flags & RTNH_F_ONLINK};
  return find_device(from->device, &route->device, reason);
}

static int set_route(int fd, const struct route* route) {
  struct netlink_request request;
  netlink_begin(&request, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &route->header,
                sizeof(route->header));
  if (route->to.prefix > 0) {
    netlink_add(&request, RTA_DST, route->to.bytes, route->to.size);
  }
  if (route->gateway.size > 0) {
    netlink_add(&request, RTA_GATEWAY, route->gateway.bytes, route->gateway.size);
  }
  if (route->source.size > 0) {
    netlink_add(&request, RTA_PREFSRC, route->source.bytes, route->source.size);
  }
  netlink_add_number(&request, RTA_OIF, route->device);
  if (route->mtu > 0) {
    struct {
      struct rtattr header;
      uint32_t mtu;
    } metric = {{.rta_len = RTA_LENGTH(sizeof(uint32_t)), .rta_type = RTAX_MTU}, route->mtu};
    netlink_add(&request, RTA_METRICS, &metric, sizeof(metric));
  }
  return netlink_send(fd, &request);
}

int network_update_routes(int fd, const Grpc__Routes* routes, struct text* reason) {
  if (routes->n_routes > MAX_ROUTES) {
    return network_refused("Routes are over 512", "", reason);
  }
  struct route* list = arena_allocate((routes->n_routes + 1) * sizeof(*list));
  if (list == NULL) {
    return network_failed("read the routes", NULL, ENOMEM, reason);
  }
  memset(list, 0, (routes->n_routes + 1) * sizeof(*list));
  for (size_t i = 0; i < routes->n_routes; i++) {
    const int code = read_route(routes->routes[i], &list[i], reason);
    if (code != 0) {
      return code;
    }
  }
  for (int through_gateway = 0; through_gateway < 2; through_gateway++) {
    for (size_t i = 0; i < routes->n_routes; i++) {
      if ((list[i].gateway.size > 0) != (through_gateway == 1)) {
        continue;
      }
      const int error = set_route(fd, &list[i]);
      if (error != 0) {
        return network_failed("set the route to", routes->routes[i]->dest, error, reason);
      }
    }
  }
  return 0;
}

struct neighbor {
  struct ndmsg header;
  struct address to;
  uint8_t hardware[kHardwareSize];
};

static int read_neighbor(const Types__ARPNeighbor* from, struct neighbor* neighbor,
                         struct text* reason) {
  if (from->toipaddress == NULL ||
      !address_read(from->toipaddress->address, from->toipaddress->family, &neighbor->to)) {
    return network_refused("toIPAddress must be an address", "", reason);
  }
  if (!hardware_read(from->lladdr, neighbor->hardware)) {
    return network_refused("lladdr must be like 02:00:00:00:00:01, not ", from->lladdr, reason);
  }
  if (from->state < 0 || from->state > UINT8_MAX || from->flags < 0 || from->flags > UINT8_MAX) {
    return network_refused("state and flags must be 0 to 255", "", reason);
  }
  unsigned device = 0;
  const int code = find_device(from->device, &device, reason);
  neighbor->header =
      (struct ndmsg){.ndm_family = neighbor->to.family,
                     .ndm_ifindex = (int)device,
                     .ndm_state = (uint16_t)(from->state == 0 ? NUD_PERMANENT : from->state),
                     .ndm_flags = (uint8_t)from->flags};
  return code;
}

int network_add_neighbors(int fd, const Grpc__ARPNeighbors* neighbors, struct text* reason) {
  if (neighbors->n_arpneighbors > MAX_NEIGHBORS) {
    return network_refused("ARPNeighbors are over 1024", "", reason);
  }
  struct neighbor* list = arena_allocate((neighbors->n_arpneighbors + 1) * sizeof(*list));
  if (list == NULL) {
    return network_failed("read the neighbours", NULL, ENOMEM, reason);
  }
  for (size_t i = 0; i < neighbors->n_arpneighbors; i++) {
    const int code = read_neighbor(neighbors->arpneighbors[i], &list[i], reason);
    if (code != 0) {
      return code;
    }
  }
  for (size_t i = 0; i < neighbors->n_arpneighbors; i++) {
    struct netlink_request request;
    netlink_begin(&request, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, &list[i].header,
                  sizeof(list[i].header));
    netlink_add(&request, NDA_DST, list[i].to.bytes, list[i].to.size);
    netlink_add(&request, NDA_LLADDR, list[i].hardware, sizeof(list[i].hardware));
    const int error = netlink_send(fd, &request);
    if (error != 0) {
      return network_failed("add the neighbour", neighbors->arpneighbors[i]->toipaddress->address,
                            error, reason);
    }
  }
  return 0;
}
