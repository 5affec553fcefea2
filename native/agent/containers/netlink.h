// Requests to the kernel's network configuration, rtnetlink(7).
#ifndef EMBERVM_CONTAINERS_NETLINK_H_
#define EMBERVM_CONTAINERS_NETLINK_H_

#include <linux/rtnetlink.h>
#include <stdalign.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { kNetlinkSize = 512 };

// A request that is put together. One that would not fit is not sent.
struct netlink_request {
  bool full;
  size_t length;
  alignas(NLMSG_ALIGNTO) uint8_t bytes[kNetlinkSize];
};

// A descriptor, or -1 with errno.
int netlink_open(void);

// `header` is the fixed part of the message, like an ifinfomsg.
void netlink_begin(struct netlink_request* request, uint16_t type, uint16_t flags,
                   const void* header, size_t size);
void netlink_add(struct netlink_request* request, uint16_t attribute, const void* data,
                 size_t size);
void netlink_add_number(struct netlink_request* request, uint16_t attribute, uint32_t number);

// Waits for the kernel's answer. 0 or an errno.
int netlink_send(int fd, struct netlink_request* request);

// Called with each message; false ends it with ENOBUFS.
typedef bool netlink_visit(void* context, const struct nlmsghdr* message);
// Asks for all objects of a kind. 0 or an errno.
int netlink_dump(int fd, uint16_t type, uint8_t family, netlink_visit* visit, void* context);

// The attribute behind the fixed part of `size` bytes, when it has at least `least`
// bytes; else NULL. `length` may be NULL.
const void* netlink_find(const struct nlmsghdr* message, size_t size, uint16_t attribute,
                         size_t least, size_t* length);
// The same in an attribute that holds attributes.
const void* netlink_find_nested(const void* data, size_t size, uint16_t attribute, size_t least);

#endif  // EMBERVM_CONTAINERS_NETLINK_H_
