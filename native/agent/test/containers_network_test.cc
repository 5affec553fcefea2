// Addresses, the kernel's answers, and the network of a namespace with nothing but a loopback.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

extern "C" {
#include "../arena.h"
#include "../containers/netlink.h"
#include "../containers/network.h"
#include "../containers/network_address.h"
#include "../ttrpc.h"
}

namespace embervm::agent_test {
namespace {

constexpr Types__IPFamily kV4 = TYPES__IPFAMILY__v4;
constexpr Types__IPFamily kV6 = TYPES__IPFAMILY__v6;

TEST_CASE("network: addresses and ranges that are some") {
  address found{};
  REQUIRE(address_read("10.1.2.3", kV4, &found));
  CHECK(found.prefix == 32);
  CHECK(address_write(found.family, found.bytes) == std::string("10.1.2.3"));
  REQUIRE(address_read("fd00::1", kV6, &found));
  CHECK(found.prefix == 128);
  CHECK(address_write(found.family, found.bytes) == std::string("fd00::1"));
  REQUIRE(address_read_range("10.1.255.3/17", kV4, &found));
  CHECK(address_write_range(found.family, found.bytes, found.prefix) ==
        std::string("10.1.128.0/17"));
  REQUIRE(address_read_range("ffff::ffff/0", kV6, &found));
  CHECK(address_write_range(found.family, found.bytes, found.prefix) == std::string("::/0"));
  REQUIRE(address_read_range("1.2.3.4", kV4, &found));
  CHECK(found.prefix == 32);
  REQUIRE(address_read_range("", kV6, &found));
  CHECK(found.prefix == 0);
  std::array<uint8_t, kHardwareSize> hardware{};
  REQUIRE(hardware_read("0A:1b:00:ff:00:01", hardware.data()));
  CHECK(hardware_write(hardware.data()) == std::string("0a:1b:00:ff:00:01"));
  arena_reset();
}

TEST_CASE("network: addresses and ranges that are none") {
  address found{};
  for (const char* text : {"", "10.1.2", "10.1.2.256", "fd00::1", "10.1.2.3 ", "10.1.2.3/8"}) {
    CAPTURE(text);
    CHECK_FALSE(address_read(text, kV4, &found));
  }
  CHECK_FALSE(address_read("10.1.2.3", kV6, &found));
  CHECK_FALSE(address_read("10.1.2.3", static_cast<Types__IPFamily>(7), &found));
  for (const char* text : {"10.0.0.0/33", "10.0.0.0/", "10.0.0.0/-1", "/8", "10.0.0.0/8/8"}) {
    CAPTURE(text);
    CHECK_FALSE(address_read_range(text, kV4, &found));
  }
  CHECK_FALSE(address_read_range(std::string(400, '1').c_str(), kV6, &found));
  std::array<uint8_t, kHardwareSize> hardware{};
  for (const char* text : {"", "00:00:00:00:00", "00:00:00:00:00:0g", "00-00-00-00-00-00",
                           "\x10"
                           "0:00:00:00:00:00",
                           "00:00:00:00:00:00:00"}) {
    CAPTURE(text);
    CHECK_FALSE(hardware_read(text, hardware.data()));
  }
}

struct Message {
  std::vector<uint8_t> bytes = std::vector<uint8_t>(NLMSG_LENGTH(4));
  void Add(uint16_t length, uint16_t type, size_t content) {
    const rtattr header = {length, type};
    const size_t at = bytes.size();
    bytes.resize(at + sizeof(header) + content);
    std::memcpy(bytes.data() + at, &header, sizeof(header));
  }
  const void* Find(uint16_t attribute, size_t least) {
    auto* header = reinterpret_cast<nlmsghdr*>(bytes.data());
    header->nlmsg_len = static_cast<uint32_t>(bytes.size());
    return netlink_find(header, 4, attribute, least, nullptr);
  }
};

TEST_CASE("network: attributes of an answer are within it") {
  Message message;
  CHECK(message.Find(1, 0) == nullptr);
  message.Add(6, 1, 4);
  message.Add(8, 2, 4);
  CHECK(message.Find(1, 2) != nullptr);
  CHECK(message.Find(1, 3) == nullptr);
  CHECK(message.Find(2, 4) != nullptr);
  CHECK(message.Find(3, 0) == nullptr);
  Message cut;
  cut.Add(9, 1, 4);
  CHECK(cut.Find(1, 0) == nullptr);
  Message endless;
  endless.Add(0, 1, 0);
  CHECK(endless.Find(2, 0) == nullptr);
  Message last;
  last.Add(5, 1, 1);
  CHECK(last.Find(1, 1) != nullptr);
  CHECK(last.Find(2, 0) == nullptr);
}

TEST_CASE("network: a request that would not fit is not sent") {
  const ifinfomsg header{};
  netlink_request request{};
  netlink_begin(&request, RTM_NEWLINK, 0, &header, sizeof(header));
  const std::array<uint8_t, 200> content{};
  for (int i = 0; i < 3; i++) {
    netlink_add(&request, 1, content.data(), content.size());
  }
  CHECK(request.full);
  CHECK(netlink_send(-1, &request) == EMSGSIZE);
}

// A network namespace for the time of a test.
class Namespace {
 public:
  Namespace() : before_(open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC)) {
    REQUIRE(before_ >= 0);
    REQUIRE(unshare(CLONE_NEWNET) == 0);
    netlink_ = netlink_open();
    REQUIRE(netlink_ >= 0);
  }
  ~Namespace() {
    close(netlink_);
    setns(before_, CLONE_NEWNET);
    close(before_);
    arena_reset();
  }
  Namespace(const Namespace&) = delete;
  Namespace& operator=(const Namespace&) = delete;
  int netlink() const { return netlink_; }

 private:
  int before_;
  int netlink_ = -1;
};

TEST_CASE("network: what is there, and a route that leads nowhere") {
  const Namespace space;
  Grpc__Interfaces interfaces = GRPC__INTERFACES__INIT;
  text reason{};
  REQUIRE(network_list_interfaces(space.netlink(), &interfaces, &reason) == 0);
  bool has_loopback = false;
  for (size_t i = 0; i < interfaces.n_interfaces; i++) {
    has_loopback |= interfaces.interfaces[i]->name == std::string("lo");
  }
  CHECK(has_loopback);

  Types__Interface wanted = TYPES__INTERFACE__INIT;
  char nobody[] = "00:00:00:00:00:00";
  wanted.hwaddr = nobody;
  // The loopback has this address, and stays out of it.
  CHECK(network_update_interface(space.netlink(), &wanted, &reason) == TTRPC_INVALID_ARGUMENT);

  Types__Route route = TYPES__ROUTE__INIT;
  char device[] = "lo";
  char gateway[] = "10.0.0.1";
  route.device = device;
  route.gateway = gateway;
  Types__Route* list[] = {&route};
  Grpc__Routes routes = GRPC__ROUTES__INIT;
  routes.routes = list;
  routes.n_routes = 1;
  CHECK(network_update_routes(space.netlink(), &routes, &reason) == TTRPC_INVALID_ARGUMENT);
  Grpc__Routes none = GRPC__ROUTES__INIT;
  REQUIRE(network_list_routes(space.netlink(), &none, &reason) == 0);
  CHECK(none.n_routes == 0);
  routes.n_routes = 1000;
  CHECK(network_update_routes(space.netlink(), &routes, &reason) == TTRPC_INVALID_ARGUMENT);
}

}  // namespace
}  // namespace embervm::agent_test
