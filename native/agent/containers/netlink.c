#include "netlink.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum { kReceiveSize = 32 * 1024, kTimeoutSeconds = 5 };

static alignas(NLMSG_ALIGNTO) uint8_t received[kReceiveSize];

int netlink_open(void) {
  const int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
  const struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
  // The kernel answers at once. Without an end a lost answer would stop the service.
  const struct timeval timeout = {.tv_sec = kTimeoutSeconds};
  if (fd < 0) {
    return -1;
  }
  if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)) < 0 ||
      connect(fd, (const struct sockaddr*)(const void*)&kernel, sizeof(kernel)) < 0) {
    const int error = errno;
    close(fd);
    errno = error;
    return -1;
  }
  return fd;
}

// --- Requests

static void* reserve(struct netlink_request* request, size_t size) {
  const size_t aligned = NLMSG_ALIGN(size);
  if (request->full || aligned > sizeof(request->bytes) - request->length) {
    request->full = true;
    return NULL;
  }
  void* at = request->bytes + request->length;
  memset(at, 0, aligned);
  request->length += aligned;
  return at;
}

void netlink_begin(struct netlink_request* request, uint16_t type, uint16_t flags,
                   const void* header, size_t size) {
  static uint32_t sequence;
  request->full = false;
  request->length = 0;
  const struct nlmsghdr message = {.nlmsg_type = type,
                                   .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags),
                                   .nlmsg_seq = ++sequence};
  memcpy(reserve(request, sizeof(message)), &message, sizeof(message));
  memcpy(reserve(request, size), header, size);
}

void netlink_add(struct netlink_request* request, uint16_t attribute, const void* data,
                 size_t size) {
  const struct rtattr header = {.rta_len = (uint16_t)RTA_LENGTH(size), .rta_type = attribute};
  uint8_t* at = reserve(request, RTA_LENGTH(size));
  if (at != NULL) {
    memcpy(at, &header, sizeof(header));
    memcpy(at + RTA_LENGTH(0), data, size);
  }
}

void netlink_add_number(struct netlink_request* request, uint16_t attribute, uint32_t number) {
  netlink_add(request, attribute, &number, sizeof(number));
}

static int transmit(int fd, struct netlink_request* request) {
  const uint32_t length = (uint32_t)request->length;
  memcpy(request->bytes, &length, sizeof(length));
  return send(fd, request->bytes, length, 0) == (ssize_t)length ? 0 : errno;
}

// --- Answers

// What the kernel says to one request: its objects, then an end.
static int take_answers(int fd, uint32_t sequence, netlink_visit* visit, void* context) {
  int result = 0;
  for (;;) {
    const ssize_t got = recv(fd, received, sizeof(received), MSG_TRUNC);
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got < 0 || (size_t)got > sizeof(received)) {
      return got < 0 ? errno : EMSGSIZE;
    }
    size_t left = (size_t)got;
    const uint8_t* at = received;
    while (left >= sizeof(struct nlmsghdr)) {
      const struct nlmsghdr* message = (const struct nlmsghdr*)(const void*)at;
      if (message->nlmsg_len < sizeof(*message) || message->nlmsg_len > left) {
        return EBADMSG;
      }
      if (message->nlmsg_seq != sequence) {
        // Of a request that was given up.
      } else if (message->nlmsg_type == NLMSG_DONE) {
        return result;
      } else if (message->nlmsg_type == NLMSG_ERROR) {
        int error;
        if (message->nlmsg_len < NLMSG_LENGTH(sizeof(error))) {
          return EBADMSG;
        }
        memcpy(&error, at + NLMSG_HDRLEN, sizeof(error));
        return error == 0 ? result : -error;
      } else if (visit != NULL && result == 0 && !visit(context, message)) {
        // The rest is read, so that nothing is left over for the next request.
        result = ENOBUFS;
      }
      const size_t step = NLMSG_ALIGN(message->nlmsg_len);
      left -= step < left ? step : left;
      at += step;
    }
  }
}

static uint32_t sequence_of(const struct netlink_request* request) {
  struct nlmsghdr header;
  memcpy(&header, request->bytes, sizeof(header));
  return header.nlmsg_seq;
}

int netlink_send(int fd, struct netlink_request* request) {
  if (request->full) {
    return EMSGSIZE;
  }
  const uint16_t acknowledged = NLM_F_ACK;
  uint16_t flags;
  uint8_t* at = request->bytes + offsetof(struct nlmsghdr, nlmsg_flags);
  memcpy(&flags, at, sizeof(flags));
  flags |= acknowledged;
  memcpy(at, &flags, sizeof(flags));
  const int error = transmit(fd, request);
  return error == 0 ? take_answers(fd, sequence_of(request), NULL, NULL) : error;
}

int netlink_dump(int fd, uint16_t type, uint8_t family, netlink_visit* visit, void* context) {
  // The longest of the fixed parts, which all begin with the family.
  const struct ifinfomsg header = {.ifi_family = family};
  struct netlink_request request;
  netlink_begin(&request, type, NLM_F_DUMP, &header, sizeof(header));
  const int error = transmit(fd, &request);
  return error == 0 ? take_answers(fd, sequence_of(&request), visit, context) : error;
}

static const void* find(const uint8_t* at, size_t left, uint16_t attribute, size_t least,
                        size_t* length) {
  while (left >= sizeof(struct rtattr)) {
    struct rtattr header;
    memcpy(&header, at, sizeof(header));
    if (header.rta_len < sizeof(header) || header.rta_len > left) {
      return NULL;
    }
    if ((header.rta_type & NLA_TYPE_MASK) == attribute) {
      const size_t size = header.rta_len - RTA_LENGTH(0);
      if (length != NULL) {
        *length = size;
      }
      return size >= least ? at + RTA_LENGTH(0) : NULL;
    }
    const size_t step = RTA_ALIGN(header.rta_len);
    left -= step < left ? step : left;
    at += step;
  }
  return NULL;
}

const void* netlink_find(const struct nlmsghdr* message, size_t size, uint16_t attribute,
                         size_t least, size_t* length) {
  const size_t start = NLMSG_LENGTH(NLMSG_ALIGN(size));
  if (message->nlmsg_len < start) {
    return NULL;
  }
  const uint8_t* bytes = (const uint8_t*)message;
  return find(bytes + start, message->nlmsg_len - start, attribute, least, length);
}

const void* netlink_find_nested(const void* data, size_t size, uint16_t attribute, size_t least) {
  return find(data, size, attribute, least, NULL);
}
