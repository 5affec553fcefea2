// CPUs and memory that come on line, in a directory that stands in for sysfs.
#include <doctest/doctest.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "files.h"

extern "C" {
#include "../containers/machine.h"
#include "../ttrpc.h"
}

namespace embervm::agent_test {
namespace {

class Sysfs {
 public:
  const char* path() const { return directory_.path().c_str(); }
  void Write(const std::string& name, const std::string& content) const {
    const std::filesystem::path path = directory_.path() + "/" + name;
    std::filesystem::create_directories(path.parent_path());
    directory_.Write(name, content, 0644);
  }
  std::string Read(const std::string& name) const {
    std::ifstream file(directory_.path() + "/" + name);
    return {std::istreambuf_iterator<char>(file), {}};
  }

 private:
  TemporaryDirectory directory_;
};

TEST_CASE("machine: as many CPUs come on line as are asked for") {
  const Sysfs cpus;
  std::filesystem::create_directory(std::string(cpus.path()) + "/cpu0");
  cpus.Write("cpu1/online", "0\n");
  cpus.Write("cpu2/online", "0\n");
  cpus.Write("cpu3/online", "1\n");
  cpus.Write("cpufreq/online", "0\n");
  text reason{};
  CHECK(machine_online_cpus(cpus.path(), 1, &reason) == 0);
  CHECK((cpus.Read("cpu1/online")[0] == '1') != (cpus.Read("cpu2/online")[0] == '1'));
  CHECK(machine_online_cpus(cpus.path(), 2, &reason) == TTRPC_FAILED_PRECONDITION);
  CHECK(reason.data == std::string("nb_cpus is 2, of which the guest had off line 1"));
  // All that there are: none is fine.
  cpus.Write("cpu1/online", "0\n");
  CHECK(machine_online_cpus(cpus.path(), 0, &reason) == 0);
  CHECK(cpus.Read("cpu1/online")[0] == '1');
  CHECK(machine_online_cpus(cpus.path(), 0, &reason) == 0);
  CHECK(cpus.Read("cpufreq/online") == "0\n");
  CHECK(machine_online_cpus("/not/there", 0, &reason) == TTRPC_INTERNAL);
}

TEST_CASE("machine: memory comes on line, and the kernel is told of more") {
  const Sysfs memory;
  memory.Write("memory0/state", "online\n");
  memory.Write("memory32/state", "offline\n");
  memory.Write("block_size_bytes", "8000000\n");
  text reason{};
  CHECK(machine_online_memory(memory.path(), &reason) == 0);
  CHECK(memory.Read("memory32/state").substr(0, 6) == "online");
  CHECK(machine_memory_section(memory.path()) == 0x8000000);

  const uint64_t addresses[] = {0x100000000, 0xfedcba9876543210};
  CHECK_FALSE(machine_has_probe(memory.path()));
  CHECK(machine_probe_memory(memory.path(), addresses, 2, &reason) == TTRPC_UNIMPLEMENTED);
  memory.Write("probe", "");
  CHECK(machine_has_probe(memory.path()));
  CHECK(machine_probe_memory(memory.path(), addresses, 2, &reason) == 0);
  // One write each: the kernel takes them one by one.
  CHECK(memory.Read("probe") == "0xfedcba9876543210");
  CHECK(machine_probe_memory(memory.path(), addresses, 100000, &reason) == TTRPC_INVALID_ARGUMENT);
}

TEST_CASE("machine: a size of sections that is none") {
  const Sysfs memory;
  CHECK(machine_memory_section(memory.path()) == 0);
  memory.Write("block_size_bytes", "x\n");
  CHECK(machine_memory_section(memory.path()) == 0);
  memory.Write("block_size_bytes", "11112222333344445\n");
  CHECK(machine_memory_section(memory.path()) == 0);
}

}  // namespace
}  // namespace embervm::agent_test
