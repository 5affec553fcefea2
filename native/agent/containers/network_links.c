#include <errno.h>
#include <net/if.h>
#include <string.h>
#include <sys/socket.h>

#include "../arena.h"
#include "../ttrpc.h"
#include "bounds.h"
#include "netlink.h"
#include "network.h"
#include "network_address.h"

int network_failed(const char* what, const char* about, int error, struct text* reason) {
  text_failure(reason, what, about, error);
  switch (error) {
    case EINVAL:
    case ERANGE:
    case EADDRNOTAVAIL:
    case ENODEV:
    // A gateway that no interface reaches.
    case ENETUNREACH:
    case EHOSTUNREACH:
    case ENETDOWN:
      return TTRPC_INVALID_ARGUMENT;
    case EEXIST:
      return TTRPC_ALREADY_EXISTS;
    case ENOMEM:
    case ENOBUFS:
      return TTRPC_RESOURCE_EXHAUSTED;
    default:
      return TTRPC_INTERNAL;
  }
}

int network_refused(const char* why, const char* about, struct text* reason) {
  text_join(reason, why, about, NULL);
  return TTRPC_INVALID_ARGUMENT;
}

// --- What there is

struct link {
  int index;
  unsigned flags;
  uint32_t mtu;
  const char* name;
  // NULL when it has none of six bytes.
  const uint8_t* hardware;
};

static bool read_link(const struct nlmsghdr* message, struct link* link) {
  const struct ifinfomsg* header = NLMSG_DATA(message);
  if (message->nlmsg_type != RTM_NEWLINK || message->nlmsg_len < NLMSG_LENGTH(sizeof(*header))) {
    return false;
  }
  size_t length = 0;
  *link = (struct link){.index = header->ifi_index, .flags = header->ifi_flags};
  link->name = netlink_find(message, sizeof(*header), IFLA_IFNAME, 1, &length);
  if (link->name == NULL || memchr(link->name, '\0', length) == NULL) {
    return false;
  }
  const void* mtu = netlink_find(message, sizeof(*header), IFLA_MTU, sizeof(link->mtu), NULL);
  if (mtu != NULL) {
    memcpy(&link->mtu, mtu, sizeof(link->mtu));
  }
  link->hardware = netlink_find(message, sizeof(*header), IFLA_ADDRESS, kHardwareSize, &length);
  link->hardware = length == kHardwareSize ? link->hardware : NULL;
  return true;
}

struct listing {
  Grpc__Interfaces* interfaces;
  int indices[MAX_INTERFACES];
};

static char* copy_name(const char* name) {
  char* copy = arena_allocate(IF_NAMESIZE);
  if (copy == NULL || !text_copy(copy, IF_NAMESIZE, name, strlen(name))) {
    return NULL;
  }
  // Any bytes may be in it, but a string of a message is UTF-8.
  text_make_printable(copy);
  return copy;
}

static bool add_interface(void* context, const struct nlmsghdr* message) {
  struct listing* listing = context;
  Grpc__Interfaces* all = listing->interfaces;
  struct link link;
  if (!read_link(message, &link)) {
    return true;
  }
  Types__Interface* interface = arena_allocate(sizeof(*interface));
  if (interface == NULL || all->n_interfaces == MAX_INTERFACES) {
    return false;
  }
  types__interface__init(interface);
  interface->name = interface->device = copy_name(link.name);
  interface->mtu = link.mtu;
  interface->raw_flags = link.flags;
  interface->ipaddresses = arena_allocate(MAX_ADDRESSES * sizeof(interface->ipaddresses[0]));
  char* hardware = link.hardware == NULL ? NULL : hardware_write(link.hardware);
  if (hardware != NULL) {
    interface->hwaddr = hardware;
  }
  listing->indices[all->n_interfaces] = link.index;
  all->interfaces[all->n_interfaces++] = interface;
  return interface->name != NULL && interface->ipaddresses != NULL;
}

struct own_address {
  unsigned index;
  uint8_t scope;
  struct address address;
};

static bool read_address(const struct nlmsghdr* message, struct own_address* own) {
  const struct ifaddrmsg* header = NLMSG_DATA(message);
  if (message->nlmsg_type != RTM_NEWADDR || message->nlmsg_len < NLMSG_LENGTH(sizeof(*header)) ||
      (header->ifa_family != AF_INET && header->ifa_family != AF_INET6)) {
    return false;
  }
  *own = (struct own_address){
      .index = header->ifa_index,
      .scope = header->ifa_scope,
      .address = {.family = header->ifa_family,
                  .size = header->ifa_family == AF_INET6 ? 16 : 4,
                  .prefix = header->ifa_prefixlen},
  };
  // Between two peers the other attribute is the other's.
  const void* bytes = netlink_find(message, sizeof(*header), IFA_LOCAL, own->address.size, NULL);
  if (bytes == NULL) {
    bytes = netlink_find(message, sizeof(*header), IFA_ADDRESS, own->address.size, NULL);
  }
  if (bytes != NULL) {
    memcpy(own->address.bytes, bytes, own->address.size);
  }
  return bytes != NULL;
}

static bool add_address(void* context, const struct nlmsghdr* message) {
  const struct listing* listing = context;
  struct own_address own;
  if (!read_address(message, &own)) {
    return true;
  }
  size_t at = 0;
  while (at < listing->interfaces->n_interfaces && listing->indices[at] != (int)own.index) {
    at++;
  }
  if (at == listing->interfaces->n_interfaces) {
    return true;
  }
  Types__Interface* interface = listing->interfaces->interfaces[at];
  Types__IPAddress* address = arena_allocate(sizeof(*address));
  char* text = address_write(own.address.family, own.address.bytes);
  struct text prefix;
  text_clear(&prefix);
  text_add_number(&prefix, own.address.prefix);
  char* mask = arena_allocate(prefix.length + 1);
  if (address == NULL || text == NULL || mask == NULL ||
      interface->n_ipaddresses == MAX_ADDRESSES) {
    return false;
  }
  memcpy(mask, prefix.data, prefix.length + 1);
  types__ipaddress__init(address);
  address->family = own.address.family == AF_INET6 ? TYPES__IPFAMILY__v6 : TYPES__IPFAMILY__v4;
  address->address = text;
  address->mask = mask;
  interface->ipaddresses[interface->n_ipaddresses++] = address;
  return true;
}

int network_list_interfaces(int fd, Grpc__Interfaces* interfaces, struct text* reason) {
  struct listing listing = {.interfaces = interfaces};
  interfaces->interfaces = arena_allocate(MAX_INTERFACES * sizeof(interfaces->interfaces[0]));
  int error = interfaces->interfaces == NULL ? ENOMEM : 0;
  if (error == 0) {
    error = netlink_dump(fd, RTM_GETLINK, AF_UNSPEC, add_interface, &listing);
  }
  if (error == 0) {
    error = netlink_dump(fd, RTM_GETADDR, AF_UNSPEC, add_address, &listing);
  }
  return error == 0 ? 0 : network_failed("list the interfaces", NULL, error, reason);
}

// --- Changes

// The interface to change, and whether another one has its name.
struct target {
  uint8_t hardware[kHardwareSize];
  const char* name;
  int index;
  unsigned flags;
  bool is_named;
  bool name_is_taken;
};

static bool look_for(void* context, const struct nlmsghdr* message) {
  struct target* target = context;
  struct link link;
  if (!read_link(message, &link)) {
    return true;
  }
  const bool is_named = strcmp(link.name, target->name) == 0;
  if (target->index == 0 && (link.flags & IFF_LOOPBACK) == 0 && link.hardware != NULL &&
      memcmp(link.hardware, target->hardware, kHardwareSize) == 0) {
    target->index = link.index;
    target->flags = link.flags;
    target->is_named = is_named;
  } else if (is_named) {
    target->name_is_taken = true;
  }
  return true;
}

static int change_link(int fd, const struct target* target, const Types__Interface* wanted) {
  const unsigned arp = wanted->raw_flags & IFF_NOARP;
  const bool rename = target->name[0] != '\0' && !target->is_named;
  struct netlink_request request;
  struct ifinfomsg header = {
      .ifi_family = AF_UNSPEC, .ifi_index = target->index, .ifi_change = IFF_UP};
  if (rename && (target->flags & IFF_UP) != 0) {
    // An interface that is up keeps its name.
    netlink_begin(&request, RTM_NEWLINK, 0, &header, sizeof(header));
    const int error = netlink_send(fd, &request);
    if (error != 0) {
      return error;
    }
  }
  header.ifi_flags = IFF_UP | arp;
  header.ifi_change = IFF_UP | IFF_NOARP;
  netlink_begin(&request, RTM_NEWLINK, 0, &header, sizeof(header));
  if (wanted->mtu != 0) {
    netlink_add_number(&request, IFLA_MTU, (uint32_t)wanted->mtu);
  }
  if (rename) {
    netlink_add(&request, IFLA_IFNAME, target->name, strlen(target->name) + 1);
  }
  return netlink_send(fd, &request);
}

static int change_address(int fd, uint16_t type, uint16_t flags, int index,
                          const struct address* address) {
  const struct ifaddrmsg header = {.ifa_family = address->family,
                                   .ifa_prefixlen = address->prefix,
                                   .ifa_index = (unsigned)index};
  struct netlink_request request;
  netlink_begin(&request, type, flags, &header, sizeof(header));
  netlink_add(&request, IFA_LOCAL, address->bytes, address->size);
  netlink_add(&request, IFA_ADDRESS, address->bytes, address->size);
  return netlink_send(fd, &request);
}

struct addresses {
  int index;
  struct address list[MAX_ADDRESSES];
  size_t count;
};

static bool collect(void* context, const struct nlmsghdr* message) {
  struct addresses* found = context;
  struct own_address own;
  if (!read_address(message, &own) || (int)own.index != found->index) {
    return true;
  }
  // The kernel gives each interface that is up one of its own.
  if (own.address.family == AF_INET6 && own.scope == RT_SCOPE_LINK) {
    return true;
  }
  if (found->count == MAX_ADDRESSES) {
    return false;
  }
  found->list[found->count++] = own.address;
  return true;
}

static bool has(const struct addresses* addresses, const struct address* address) {
  for (size_t i = 0; i < addresses->count; i++) {
    const struct address* other = &addresses->list[i];
    if (other->family == address->family && other->prefix == address->prefix &&
        memcmp(other->bytes, address->bytes, address->size) == 0) {
      return true;
    }
  }
  return false;
}

static int change_addresses(int fd, int index, const struct addresses* wanted) {
  struct addresses old = {.index = index};
  int error = netlink_dump(fd, RTM_GETADDR, AF_UNSPEC, collect, &old);
  for (size_t i = 0; error == 0 && i < old.count; i++) {
    if (!has(wanted, &old.list[i])) {
      error = change_address(fd, RTM_DELADDR, 0, index, &old.list[i]);
      // One that went with another, as its secondary.
      error = error == EADDRNOTAVAIL ? 0 : error;
    }
  }
  for (size_t i = 0; error == 0 && i < wanted->count; i++) {
    error = change_address(fd, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, index, &wanted->list[i]);
  }
  return error;
}

static int read_wanted(const Types__Interface* wanted, struct target* target,
                       struct addresses* addresses, struct text* reason) {
  if (!hardware_read(wanted->hwaddr, target->hardware)) {
    return network_refused("hwAddr must be like 02:00:00:00:00:01, not ", wanted->hwaddr, reason);
  }
  if (strlen(wanted->name) >= IF_NAMESIZE) {
    return network_refused("name is over 15 bytes: ", wanted->name, reason);
  }
  if (wanted->mtu > UINT32_MAX || wanted->n_ipaddresses > MAX_ADDRESSES) {
    return network_refused("mtu is too large, or IPAddresses are over 64", "", reason);
  }
  for (size_t i = 0; i < wanted->n_ipaddresses; i++) {
    const Types__IPAddress* from = wanted->ipaddresses[i];
    struct address* address = &addresses->list[addresses->count++];
    if (!address_read(from->address, from->family, address)) {
      return network_refused("IPAddresses has what is none: ", from->address, reason);
    }
    if (!address_read_prefix(from->mask, address)) {
      return network_refused("mask must be the length of a prefix, not ", from->mask, reason);
    }
  }
  target->name = wanted->name;
  return 0;
}

int network_update_interface(int fd, const Types__Interface* wanted, struct text* reason) {
  struct target target = {0};
  struct addresses addresses = {0};
  const int code = read_wanted(wanted, &target, &addresses, reason);
  if (code != 0) {
    return code;
  }
  int error = netlink_dump(fd, RTM_GETLINK, AF_UNSPEC, look_for, &target);
  if (error == 0 && target.index == 0) {
    return network_refused("no interface has the hwAddr ", wanted->hwaddr, reason);
  }
  if (error == 0 && target.name_is_taken) {
    text_join(reason, "another interface has the name ", wanted->name, NULL);
    return TTRPC_ALREADY_EXISTS;
  }
  if (error == 0) {
    error = change_link(fd, &target, wanted);
  }
  if (error == 0) {
    error = change_addresses(fd, target.index, &addresses);
  }
  return error == 0 ? 0 : network_failed("change the interface", wanted->hwaddr, error, reason);
}
