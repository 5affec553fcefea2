// Metrics, from a /proc that is made up.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "files.h"

extern "C" {
#include "../arena.h"
#include "../containers/metrics.h"
}

namespace embervm::agent_test {
namespace {

class Proc {
 public:
  void Write(const std::string& name, const std::string& content) const {
    const std::filesystem::path path = directory_.path() + "/" + name;
    std::filesystem::create_directories(path.parent_path());
    directory_.Write(name, content, 0644);
  }
  std::string Metrics(size_t size = 32768) const {
    const int fd = open(directory_.path().c_str(), O_RDONLY | O_DIRECTORY);
    page lines{};
    REQUIRE(page_start(&lines, size));
    REQUIRE(metrics_write(&lines, fd, 3));
    const std::string text(lines.data, lines.length);
    arena_reset();
    close(fd);
    return text;
  }

 private:
  TemporaryDirectory directory_;
};

bool HasLine(const std::string& text, const std::string& line) {
  return ("\n" + text).find("\n" + line + "\n") != std::string::npos;
}

TEST_CASE("metrics: every source, by Kata's names") {
  const Proc proc;
  proc.Write("self/stat",
             "1 (con) tainers) S 0 1 1 0 -1 4 5 6 7 8 500 100 13 14 15 -5 2 18 0 4096 3 1 1\n");
  proc.Write("self/io", "rchar: 5\nwrite_bytes: 6\n");
  proc.Write("loadavg", "0.25 0.01 1.05 2/60 123\n");
  proc.Write("stat", "cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 11 12 13 14 15 16 17 18 19 20\nintr 9\n");
  proc.Write("meminfo", "MemTotal:  16 kB\nActive(anon): 1 kB\nHugePages_Total: 7\n");
  proc.Write("vmstat", "nr_free_pages 5\n");
  proc.Write("diskstats", " 254  0 vda 1 2 3 4 5 6 7 8 9 10 11\n");
  proc.Write("self/net/dev",
             "Inter-| Receive\n face |bytes\n"
             "  e\"t\\h\n0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n");
  const std::string text = proc.Metrics();
  const char* const lines[] = {
      "# TYPE kata_agent_scrape_count counter",
      "kata_agent_scrape_count 3",
      "kata_agent_threads 2",
      "kata_agent_total_time 6",
      "kata_agent_total_vm 4096",
      "kata_agent_proc_stat{item=\"cstime\"} 14",
      "kata_agent_io_stat{item=\"write_bytes\"} 6",
      "kata_guest_load{item=\"load1\"} 0.25",
      "kata_guest_load{item=\"load15\"} 1.05",
      "kata_guest_tasks{item=\"cur\"} 2",
      "kata_guest_tasks{item=\"max\"} 60",
      "kata_guest_cpu_time{cpu=\"total\",item=\"user\"} 1",
      "kata_guest_cpu_time{cpu=\"0\",item=\"guest_nice\"} 20",
      "kata_guest_meminfo{item=\"mem_total\"} 16384",
      "kata_guest_meminfo{item=\"active_anon\"} 1024",
      "kata_guest_meminfo{item=\"huge_pages_total\"} 7",
      "kata_guest_vm_stat{item=\"nr_free_pages\"} 5",
      "kata_guest_diskstat{disk=\"vda\",item=\"reads\"} 1",
      "kata_guest_diskstat{disk=\"vda\",item=\"weighted_time_in_progress\"} 11",
      "kata_guest_netdev_stat{interface=\"0\",item=\"sent_compressed\"} 16",
  };
  for (const char* line : lines) {
    CAPTURE(line);
    CHECK(HasLine(text, line));
  }
  CHECK(text.find("intr") == std::string::npos);
}

TEST_CASE("metrics: a name cannot end its label") {
  const Proc proc;
  proc.Write("self/net/dev", " a\"}b\\\xff: 1 2 3\n");
  CHECK(HasLine(proc.Metrics(),
                "kata_guest_netdev_stat{interface=\"a?}b??\",item=\"recv_bytes\"} 1"));
}

TEST_CASE("metrics: nonsense is left out, and only whole lines fit") {
  const Proc proc;
  proc.Write("self/stat", "1 (x S 1");
  proc.Write("loadavg", "x\n");
  proc.Write("meminfo", "MemTotal: x kB\n: 5 kB\nMemFree:");
  proc.Write("diskstats", "1 2\n1 x vda 1\n");
  const std::string text = proc.Metrics();
  CHECK(text.find("mem_") == std::string::npos);
  CHECK(text.find("vda") == std::string::npos);
  for (size_t size = 1; size < 400; size += 7) {
    const std::string part = proc.Metrics(size);
    CHECK(part.size() < size);
    CHECK((part.empty() || part.back() == '\n'));
    CHECK(text.compare(0, part.size(), part) == 0);
  }
}

}  // namespace
}  // namespace embervm::agent_test
