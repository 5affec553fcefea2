// Statistics of containers, from files as the kernel writes them.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include <cstdint>
#include <map>
#include <string>

#include "files.h"

extern "C" {
#include "../arena.h"
#include "../containers/stats.h"
}

namespace embervm::agent_test {
namespace {

class Group {
 public:
  Group() : fd_(open(directory_.path().c_str(), O_RDONLY | O_DIRECTORY)) { REQUIRE(fd_ >= 0); }
  ~Group() {
    close(fd_);
    arena_reset();
  }
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;
  void Write(const std::string& name, const std::string& content) const {
    directory_.Write(name, content, 0644);
  }
  Grpc__CgroupStats* Read() const { return stats_read(fd_); }

 private:
  TemporaryDirectory directory_;
  int fd_;
};

TEST_CASE("statistics: every number of a control group, in its unit") {
  const Group group;
  group.Write("cpu.stat",
              "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 4\nnr_throttled 3\n"
              "throttled_usec 2\n");
  group.Write("memory.current", "4096\n");
  group.Write("memory.peak", "8192\n");
  group.Write("memory.max", "max\n");
  group.Write("memory.swap.current", "1\n");
  group.Write("memory.swap.max", "2\n");
  group.Write("memory.events", "low 0\nhigh 0\nmax 7\noom 1\noom_kill 1\n");
  group.Write("memory.stat", "anon 100\nfile 200\nkernel 300\n");
  group.Write("pids.current", "5\n");
  group.Write("pids.max", "9\n");
  group.Write("io.stat", "8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n");
  const Grpc__CgroupStats* stats = group.Read();
  REQUIRE(stats != nullptr);

  CHECK(stats->cpu_stats->cpu_usage->total_usage == 30000);
  CHECK(stats->cpu_stats->cpu_usage->usage_in_usermode == 20000);
  CHECK(stats->cpu_stats->cpu_usage->usage_in_kernelmode == 10000);
  CHECK(stats->cpu_stats->throttling_data->periods == 4);
  CHECK(stats->cpu_stats->throttling_data->throttled_periods == 3);
  CHECK(stats->cpu_stats->throttling_data->throttled_time == 2000);
  const Grpc__MemoryStats* memory = stats->memory_stats;
  CHECK(memory->usage->usage == 4096);
  CHECK(memory->usage->max_usage == 8192);
  CHECK(memory->usage->limit == UINT64_MAX);
  CHECK(memory->usage->failcnt == 7);
  CHECK(memory->swap_usage->usage == 1);
  CHECK(memory->swap_usage->limit == 2);
  CHECK(memory->cache == 200);
  CHECK(memory->kernel_usage->usage == 300);
  std::map<std::string, uint64_t> details;
  for (size_t i = 0; i < memory->n_stats; i++) {
    details[memory->stats[i]->key] = memory->stats[i]->value;
  }
  CHECK(details == std::map<std::string, uint64_t>{{"anon", 100}, {"file", 200}, {"kernel", 300}});
  CHECK(stats->pids_stats->current == 5);
  CHECK(stats->pids_stats->limit == 9);
  const Grpc__BlkioStats* block = stats->blkio_stats;
  REQUIRE(block->n_io_service_bytes_recursive == 3);
  REQUIRE(block->n_io_serviced_recursive == 3);
  CHECK(block->io_service_bytes_recursive[1]->major == 8);
  CHECK(block->io_service_bytes_recursive[1]->minor == 16);
  CHECK(block->io_service_bytes_recursive[1]->op == std::string("Write"));
  CHECK(block->io_service_bytes_recursive[1]->value == 2);
  CHECK(block->io_serviced_recursive[2]->op == std::string("Discard"));
  CHECK(block->io_serviced_recursive[2]->value == 6);
}

TEST_CASE("statistics: a group without controllers has zeros, and nonsense is passed over") {
  const Group group;
  group.Write("memory.stat", "anon\nfile x\n 1\nkernel 18446744073709551616\n\n");
  group.Write("io.stat", "8:16\nx:1 rbytes=1\n8: rbytes=1\n8:1 rbytes=\n8:1 rbytes=1x\n");
  group.Write("pids.max", "max\n");
  const Grpc__CgroupStats* stats = group.Read();
  REQUIRE(stats != nullptr);
  CHECK(stats->cpu_stats->cpu_usage->total_usage == 0);
  CHECK(stats->memory_stats->usage->usage == 0);
  // The line " 1" has an empty name and a number.
  CHECK(stats->memory_stats->n_stats == 1);
  CHECK(stats->blkio_stats->n_io_service_bytes_recursive == 0);
  CHECK(stats->pids_stats->limit == 0);
}

TEST_CASE("statistics: more devices and keys than are told of") {
  const Group group;
  std::string content = "1:1";
  for (int i = 0; i < 400; i++) {
    content += " rbytes=1";
  }
  for (int i = 0; i < 400; i++) {
    content += "\n7:" + std::to_string(i) + " rbytes=1 wios=1";
  }
  group.Write("io.stat", content);
  const Grpc__CgroupStats* stats = group.Read();
  REQUIRE(stats != nullptr);
  // Six words of the first device, and one of each of the other 63.
  CHECK(stats->blkio_stats->n_io_service_bytes_recursive == 6 + 63);
  CHECK(stats->blkio_stats->n_io_serviced_recursive == 63);
}

TEST_CASE("statistics: interfaces, whatever they are called") {
  std::string content =
      "Inter-|   Receive |  Transmit\n face |bytes packets|bytes\n"
      "    lo: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n"
      "  e\xffh\x01: 10 20 30 40 0 0 0 0 50 60 70 80 0 0 0 0\n"
      " torn: 1 2 3\n";
  Grpc__StatsContainerResponse response = GRPC__STATS_CONTAINER_RESPONSE__INIT;
  REQUIRE(stats_read_interfaces(content.data(), &response));
  REQUIRE(response.n_network_stats == 2);
  CHECK(response.network_stats[0]->name == std::string("lo"));
  CHECK(response.network_stats[0]->rx_dropped == 4);
  CHECK(response.network_stats[0]->tx_bytes == 5);
  CHECK(response.network_stats[1]->name == std::string("e?h?"));
  CHECK(response.network_stats[1]->tx_dropped == 80);
  arena_reset();
}

}  // namespace
}  // namespace embervm::agent_test
