// SetUpRoot and PowerOff for real: the agent is PID 1 of new namespaces, its "/" a
// small tmpfs as the initramfs is, the disks are loop devices.
#include <doctest/doctest.h>
#include <linux/capability.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <memory>

#include "root_fixture.h"

namespace embervm::agent_test {
namespace {

TEST_CASE_FIXTURE(Fixture,
                  "an overlay of EROFS and ext4 works, grows, and is clean after the end") {
  const std::string tree = MakeTree(directory, "tree");
  const std::string image = directory.path() + "/image.erofs";
  RunCommand("mkfs.erofs --quiet " + image + " " + tree);
  const std::string upper_file = directory.path() + "/upper.ext4";
  RunCommand("truncate -s 16M " + upper_file + " && mkfs.ext4 -q " + upper_file +
             " && truncate -s 96M " + upper_file);
  const LoopDevice lower(image);
  {
    const LoopDevice upper(upper_file);
    const Disk lower_disk{lower.path(), "erofs", true};
    const Disk upper_disk{upper.path(), "ext4"};
    AgentProcess agent(Initramfs(scratch));
    Client control(agent.AcceptControl());
    const ExecSpec early{.args = {"sh"}};
    CHECK(FinishExec(control, StartExec(control, early), early).code == kFailedPrecondition);

    const bool can_grow = HasCapability(CAP_SYS_RESOURCE);
    if (!can_grow) {
      const Answer refused =
          control.Call(kAgentService, "SetUpRoot", Overlay(lower_disk, &upper_disk, true));
      CHECK(refused.code == kInternal);
      CHECK(refused.message == "ioctl EXT4_IOC_RESIZE_FS(/upper): Operation not permitted");
    }
    const Answer answer =
        control.Call(kAgentService, "SetUpRoot", Overlay(lower_disk, &upper_disk, can_grow));
    CAPTURE(answer.message);
    REQUIRE(answer.code == 0);
    CHECK(control.Call(kAgentService, "SetUpRoot", Overlay(lower_disk, &upper_disk, true)).code ==
          kFailedPrecondition);

    CHECK(Shell(control, "hostname") == "box\n");
    CHECK(Shell(control, "stat -c %a /") == "751\n");
    CHECK(Shell(control, "echo kept > /file && cat /file") == "kept\n");
    const std::string mounts = Shell(control, "cat /proc/mounts");
    for (const char* wanted :
         {" / overlay ", " /proc proc ", " /sys sysfs ", " /dev devtmpfs ", " /dev/pts devpts ",
          " /dev/shm tmpfs ", " /sys/fs/cgroup cgroup2 ", " /run tmpfs "}) {
      CAPTURE(wanted);
      CHECK(mounts.find(wanted) != std::string::npos);
    }
    CHECK(Shell(control, "cat /dev/null; test -c /dev/null && echo x | cat /dev/stdin") == "x\n");
    CHECK(Shell(control, "ifconfig lo").find("127.0.0.1") != std::string::npos);
    CHECK(Shell(control, "ps -o pid,comm").find("1 ") != std::string::npos);
    const ExecSpec user{.args = {"id"}, .user = "user"};
    CHECK(FinishExec(control, StartExec(control, user), user).out.find("50(extra)") !=
          std::string::npos);
    // 16 MiB as it was made; grown it fills the 96 MiB of its device.
    const long bytes = std::stol(Shell(control, "stat -f -c %b /")) * 1024;
    CHECK(bytes > (can_grow ? 60L << 20 : 8L << 20));
    CHECK(bytes < (can_grow ? 96L << 20 : 16L << 20));

    const std::string boot_id = Shell(control, "cat /proc/sys/kernel/random/boot_id");
    CHECK(boot_id.size() == 37);
    CHECK(boot_id == Shell(control, "cat /proc/sys/kernel/random/boot_id"));
    CHECK(control.Call(kAgentService, "Restored", Restored()).code == 0);
    const std::string next_boot_id = Shell(control, "cat /proc/sys/kernel/random/boot_id");
    CHECK(next_boot_id.size() == 37);
    CHECK(next_boot_id != boot_id);

    CHECK(control.Call(kAgentService, "PowerOff", PowerOff(1000)).code == 0);
    CHECK(ExitStatus(agent) == kPoweredOff);
  }
  const std::string header = RunCommand("dumpe2fs -h " + upper_file);
  CHECK(header.find("needs_recovery") == std::string::npos);
  CHECK(header.find("Filesystem state:         clean") != std::string::npos);
  RunCommand("e2fsck -fn " + upper_file);

  // Once more on the same layer: what was written is there.
  const LoopDevice upper(upper_file);
  const Disk upper_disk{upper.path(), "ext4"};
  AgentProcess agent(Initramfs(scratch));
  Client control(agent.AcceptControl());
  REQUIRE(control
              .Call(kAgentService, "SetUpRoot",
                    Overlay({lower.path(), "erofs", true}, &upper_disk, false))
              .code == 0);
  CHECK(Shell(control, "cat /file") == "kept\n");
  CHECK(control.Call(kAgentService, "PowerOff", PowerOff(0)).code == 0);
  CHECK(ExitStatus(agent) == kPoweredOff);
}

TEST_CASE_FIXTURE(Fixture, "without an upper the writes go to memory") {
  const std::string tree = MakeTree(directory, "tree");
  const std::string image = directory.path() + "/image.erofs";
  RunCommand("mkfs.erofs --quiet " + image + " " + tree);
  const LoopDevice lower(image);
  AgentProcess agent(Initramfs(scratch));
  Client control(agent.AcceptControl());
  const Answer answer =
      control.Call(kAgentService, "SetUpRoot", Overlay({lower.path(), "erofs"}, nullptr, false));
  CAPTURE(answer.message);
  REQUIRE(answer.code == 0);
  CHECK(Shell(control, "echo a > /bin/new && cat /bin/new && rm /bin/ls && stat -c %a /") ==
        "a\n751\n");
  CHECK(control.Call(kAgentService, "PowerOff", PowerOff(0)).code == 0);
  CHECK(ExitStatus(agent) == kPoweredOff);
}

TEST_CASE_FIXTURE(Fixture, "a failure names call, path and error, and can be repeated better") {
  const std::string tree = MakeTree(directory, "tree");
  AgentProcess agent(Initramfs(scratch, tree));
  Client control(agent.AcceptControl());
  struct Case {
    std::string what;
    std::string request;
    int code;
    const char* message;
  };
  const Disk tmpfs{"none", "tmpfs"};
  const Case cases[] = {
      {"nothing", {}, kInvalidArgument, "names no root"},
      {"no fstype", Overlay({"/dev/x", ""}, nullptr, false), kInvalidArgument, "fstype"},
      {"grow nothing", Overlay(tmpfs, nullptr, true), kInvalidArgument, "upper"},
      {"long host name", Overlay(tmpfs, nullptr, false, std::string(65, 'h')), kInvalidArgument,
       "hostname"},
      {"no directory", Directory(nullptr, ""), kInvalidArgument, "a path"},
      {"relative", Directory(nullptr, "image"), kInvalidArgument, "absolute"},
      {"dot dot", Directory(nullptr, "/image/.."), kInvalidArgument, ".."},
      {"no device", Overlay({"/dev/none", "ext4"}, nullptr, false), kInternal,
       "mount(/dev/none on /lower, ext4): No such file or directory"},
      {"no such fs", Overlay({"x", "nosuchfs"}, nullptr, false), kInternal,
       "mount(x on /lower, nosuchfs): No such device"},
      {"grow what is no disk", Overlay(tmpfs, &tmpfs, true), kInternal, "open(none)"},
      {"missing path", Directory(nullptr, "/nothing"), kInternal,
       "open(/nothing): No such file or directory"},
      {"path is a file", Directory(nullptr, "/image/etc/passwd"), kInternal, "Not a directory"},
  };
  for (const Case& test : cases) {
    CAPTURE(test.what);
    const Answer answer = control.Call(kAgentService, "SetUpRoot", test.request);
    CAPTURE(answer.message);
    CHECK(answer.code == test.code);
    CHECK(answer.message.find(test.message) != std::string::npos);
  }
  const Answer answer = control.Call(kAgentService, "SetUpRoot", Directory(nullptr, "/image"));
  CAPTURE(answer.message);
  REQUIRE(answer.code == 0);
  CHECK(Shell(control, "cat /etc/passwd").find("user") != std::string::npos);
  // Nothing of the attempts before is left mounted.
  const std::string mounts = Shell(control, "cat /proc/1/mounts");
  CHECK(mounts.find(" /lower ") == std::string::npos);
  CHECK(mounts.find(" /upper ") == std::string::npos);
  CHECK(control.Call(kAgentService, "PowerOff", PowerOff(0)).code == 0);
  CHECK(ExitStatus(agent) == kPoweredOff);
}

TEST_CASE_FIXTURE(Fixture, "the links of an image do not make the agent mount outside it") {
  const std::string tree = MakeTree(directory, "tree");
  // Were they followed from the agent's root, /dev and /image would be covered.
  std::filesystem::create_symlink("/image", tree + "/sys");
  std::filesystem::create_directory(tree + "/image");
  std::filesystem::create_symlink("../../../../dev", tree + "/run");
  AgentProcess agent(Initramfs(scratch, tree));
  Client control(agent.AcceptControl());
  const Answer answer = control.Call(kAgentService, "SetUpRoot", Directory(nullptr, "/image"));
  CAPTURE(answer.message);
  REQUIRE(answer.code == 0);
  const std::string mounts = Shell(control, "cat /proc/1/mounts");
  CHECK(mounts.find(" /root/image sysfs ") != std::string::npos);
  CHECK(mounts.find(" /image sysfs ") == std::string::npos);
  CHECK(control.Call(kAgentService, "PowerOff", PowerOff(0)).code == 0);
  CHECK(ExitStatus(agent) == kPoweredOff);
}

TEST_CASE_FIXTURE(Fixture, "what an image keeps below /run is not covered") {
  const std::string tree = MakeTree(directory, "tree");
  std::filesystem::create_directories(tree + "/run/database");
  AgentProcess agent(Initramfs(scratch, tree));
  Client control(agent.AcceptControl());
  REQUIRE(control.Call(kAgentService, "SetUpRoot", Directory(nullptr, "/image")).code == 0);
  CHECK(Shell(control, "ls /run") == "database\n");
  CHECK(control.Call(kAgentService, "PowerOff", PowerOff(0)).code == 0);
  CHECK(ExitStatus(agent) == kPoweredOff);
}

TEST_CASE_FIXTURE(Fixture, "a path below a mount does not leave it") {
  const std::string tree = MakeTree(directory, "inner");
  const std::string disk_tree = directory.path() + "/disk";
  std::filesystem::create_directory(disk_tree);
  std::filesystem::rename(tree, disk_tree + "/inner");
  std::filesystem::create_symlink("/../../inner", disk_tree + "/link");
  const std::string image = directory.path() + "/image.erofs";
  RunCommand("mkfs.erofs --quiet " + image + " " + disk_tree);
  const LoopDevice lower(image);
  AgentProcess agent(Initramfs(scratch));
  Client control(agent.AcceptControl());
  const Disk disk{lower.path(), "erofs", true};
  // Read only and without the directories that are needed: refused, with the name.
  const Answer answer = control.Call(kAgentService, "SetUpRoot", Directory(&disk, "/link"));
  CAPTURE(answer.message);
  CHECK(answer.code == kInternal);
  CHECK(answer.message.find("mkdir(/proc): Read-only file system") != std::string::npos);
}

TEST_CASE_FIXTURE(Fixture, "power off gives processes their grace, then kills them") {
  const std::string tree = MakeTree(directory, "tree");
  struct Case {
    std::string what;
    const char* script;
    uint32_t grace_ms;
    int at_least_ms;
    int at_most_ms;
  };
  const Case cases[] = {
      {"ends at SIGTERM", "echo x; sleep 1000", 20'000, 0, 3000},
      {"stopped", "echo x; kill -STOP $$", 20'000, 0, 3000},
      {"ignores SIGTERM", "trap '' TERM; echo x; while :; do sleep 1000; done", 400, 400, 5000},
      {"orphans", "(sleep 1000 &) ; echo x; sleep 1000", 20'000, 0, 3000},
  };
  for (const Case& test : cases) {
    CAPTURE(test.what);
    AgentProcess agent(Initramfs(scratch, tree));
    Client control(agent.AcceptControl());
    REQUIRE(control.Call(kAgentService, "SetUpRoot", Directory(nullptr, "/image")).code == 0);
    const uint32_t stream = StartExec(control, {.args = {"sh", "-c", test.script}});
    ExecOutcome outcome;
    while (outcome.out.empty()) {
      const std::optional<Frame> frame = control.Receive();
      REQUIRE(frame.has_value());
      REQUIRE(!Collect(*frame, outcome));
    }
    usleep(50'000);
    const auto begin = std::chrono::steady_clock::now();
    const uint32_t power_off = control.NextStream();
    REQUIRE(control.Send(
        EncodeFrame({power_off, kRequest, 0,
                     EncodeRequest(kAgentService, "PowerOff", PowerOff(test.grace_ms))})));
    // Only where the machine is sure to be there still.
    const uint32_t late =
        test.at_least_ms > 0 ? StartExec(control, {.args = {"sh"}}) : control.NextStream();
    bool answered = false;
    bool refused = false;
    while (const std::optional<Frame> frame = control.Receive(10'000)) {
      if (frame->stream == power_off) {
        answered = DecodeResponse(*frame).code == 0;
      } else if (frame->stream == late) {
        refused = DecodeResponse(*frame).code == kUnavailable;
      } else if (frame->stream == stream) {
        Collect(*frame, outcome);
      }
    }
    const auto took = std::chrono::duration_cast<std::chrono::milliseconds>(
        std::chrono::steady_clock::now() - begin);
    CHECK(answered);
    CHECK(refused == (test.at_least_ms > 0));
    // The end of the process is told before the machine goes.
    CHECK((outcome.signal.has_value() || outcome.exit_code.has_value()));
    CHECK(took.count() >= test.at_least_ms);
    CHECK(took.count() < test.at_most_ms);
    CHECK(ExitStatus(agent) == kPoweredOff);
  }
}

}  // namespace
}  // namespace embervm::agent_test
