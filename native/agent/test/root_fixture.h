// A guest's root on this host: the agent is PID 1 of new namespaces, its "/" a small tmpfs as
// the initramfs is, the disks are loop devices.
#pragma once

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
#include <functional>
#include <string>

#include "agent.pb-c.h"
#include "agent_process.h"
#include "client.h"
#include "files.h"

namespace embervm::agent_test {

inline constexpr int kInvalidArgument = 3;
inline constexpr int kFailedPrecondition = 9;
inline constexpr int kInternal = 13;
inline constexpr int kUnavailable = 14;
// reboot(RB_POWER_OFF) in a PID namespace ends its PID 1 by SIGINT; the harness
// passes that on as 128 + number.
inline constexpr int kPoweredOff = 128 + SIGINT;

inline std::string RunCommand(const std::string& command) {
  FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  REQUIRE(pipe != nullptr);
  std::string output;
  std::array<char, 4096> chunk{};
  for (size_t got; (got = fread(chunk.data(), 1, chunk.size(), pipe)) > 0;) {
    output.append(chunk.data(), got);
  }
  CAPTURE(command);
  CAPTURE(output);
  REQUIRE(pclose(pipe) == 0);
  return output;
}

class LoopDevice {
 public:
  explicit LoopDevice(const std::string& file) : file_(file) { Attach(); }
  ~LoopDevice() { Detach(); }
  LoopDevice(const LoopDevice&) = delete;
  LoopDevice& operator=(const LoopDevice&) = delete;
  const std::string& path() const { return path_; }
  const std::string& file() const { return file_; }

 private:
  void Attach() {
    path_ = RunCommand("losetup --find --show " + file_);
    path_.erase(path_.find_last_not_of('\n') + 1);
  }
  void Detach() { RunCommand("losetup --detach " + path_); }

  std::string file_;
  std::string path_;
};

// A tree with a static busybox.
inline std::string MakeTree(const TemporaryDirectory& directory, const std::string& name) {
  const std::string tree = directory.path() + "/" + name;
  directory.Write(name + "/etc/passwd", "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home:/x\n",
                  0644);
  directory.Write(name + "/etc/group", "root:x:0:\nextra:x:50:user\n", 0644);
  std::filesystem::create_directories(tree + "/bin");
  std::filesystem::create_directories(tree + "/root");
  std::filesystem::copy_file("/bin/busybox", tree + "/bin/busybox");
  for (const char* applet : {"sh", "cat", "ls", "mount", "hostname", "touch", "id", "sleep", "stat",
                             "df", "ifconfig", "readlink", "test", "kill", "echo", "rm", "ps"}) {
    std::filesystem::create_symlink("busybox", tree + "/bin/" + applet);
  }
  chmod(tree.c_str(), 0751);
  return tree;
}

// The place of the initramfs: nothing but /dev, and what a test puts beside it.
inline std::function<bool()> Initramfs(const std::string& scratch, const std::string& tree = {}) {
  return [scratch, tree] {
    if (mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0 ||
        mount("initramfs", scratch.c_str(), "tmpfs", 0, nullptr) < 0 ||
        mkdir((scratch + "/dev").c_str(), 0755) < 0) {
      return false;
    }
    if (!tree.empty()) {
      const std::string place = scratch + "/image";
      if (mkdir(place.c_str(), 0755) < 0 ||
          mount(tree.c_str(), place.c_str(), nullptr, MS_BIND, nullptr) < 0) {
        return false;
      }
    }
    return chdir(scratch.c_str()) == 0 && chroot(".") == 0;
  };
}

inline std::string Pack(const ProtobufCMessage& message) {
  std::string packed(protobuf_c_message_get_packed_size(&message), '\0');
  protobuf_c_message_pack(&message, reinterpret_cast<uint8_t*>(packed.data()));
  return packed;
}

inline char* Mutable(const std::string& string) { return const_cast<char*>(string.c_str()); }

struct Disk {
  std::string source;
  std::string fstype;
  bool read_only = false;
  std::string data = {};
};

inline Embervm__Agent__V1__Mount Mount(const Disk& disk) {
  Embervm__Agent__V1__Mount mount = EMBERVM__AGENT__V1__MOUNT__INIT;
  mount.source = Mutable(disk.source);
  mount.fstype = Mutable(disk.fstype);
  mount.data = Mutable(disk.data);
  mount.read_only = disk.read_only;
  return mount;
}

inline std::string Overlay(const Disk& lower, const Disk* upper, bool grow,
                           const std::string& hostname = "box") {
  Embervm__Agent__V1__Mount lower_mount = Mount(lower);
  Embervm__Agent__V1__Mount upper_mount = upper != nullptr ? Mount(*upper) : lower_mount;
  Embervm__Agent__V1__OverlayRoot overlay = EMBERVM__AGENT__V1__OVERLAY_ROOT__INIT;
  overlay.lower = &lower_mount;
  overlay.upper = upper != nullptr ? &upper_mount : nullptr;
  overlay.grow_upper = grow;
  Embervm__Agent__V1__SetUpRootRequest request = EMBERVM__AGENT__V1__SET_UP_ROOT_REQUEST__INIT;
  request.root_case = EMBERVM__AGENT__V1__SET_UP_ROOT_REQUEST__ROOT_OVERLAY;
  request.overlay = &overlay;
  request.hostname = Mutable(hostname);
  return Pack(request.base);
}

inline std::string Directory(const Disk* disk, const std::string& path) {
  Embervm__Agent__V1__Mount mount = disk != nullptr ? Mount(*disk) : Mount({});
  Embervm__Agent__V1__DirectoryRoot directory = EMBERVM__AGENT__V1__DIRECTORY_ROOT__INIT;
  directory.mount = disk != nullptr ? &mount : nullptr;
  directory.path = Mutable(path);
  Embervm__Agent__V1__SetUpRootRequest request = EMBERVM__AGENT__V1__SET_UP_ROOT_REQUEST__INIT;
  request.root_case = EMBERVM__AGENT__V1__SET_UP_ROOT_REQUEST__ROOT_DIRECTORY;
  request.directory = &directory;
  return Pack(request.base);
}

inline std::string PowerOff(uint32_t grace_ms) {
  Embervm__Agent__V1__PowerOffRequest request = EMBERVM__AGENT__V1__POWER_OFF_REQUEST__INIT;
  request.grace_ms = grace_ms;
  return Pack(request.base);
}

inline std::string Restored() {
  std::string seed(64, 'x');
  Embervm__Agent__V1__RestoredRequest request = EMBERVM__AGENT__V1__RESTORED_REQUEST__INIT;
  request.random_seed = {seed.size(), reinterpret_cast<uint8_t*>(seed.data())};
  return Pack(request.base);
}

inline std::string Shell(Client& client, const std::string& script) {
  const ExecSpec spec{.args = {"sh", "-c", script}};
  const ExecOutcome outcome = FinishExec(client, StartExec(client, spec), spec);
  CAPTURE(script);
  CAPTURE(outcome.err);
  CAPTURE(outcome.message);
  CAPTURE(outcome.failure_message);
  CHECK(outcome.exit_code == 0);
  return outcome.out;
}

inline int ExitStatus(AgentProcess& agent) {
  const int status = agent.Wait();
  REQUIRE(WIFEXITED(status));
  return WEXITSTATUS(status);
}

inline bool HasCapability(unsigned capability) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, 2> data{};
  REQUIRE(syscall(SYS_capget, &header, data.data()) == 0);
  return (data[capability / 32].effective >> capability % 32 & 1) != 0;
}

struct Fixture {
  TemporaryDirectory directory;
  std::string scratch = directory.path() + "/scratch";
  Fixture() { std::filesystem::create_directory(scratch); }
};

}  // namespace embervm::agent_test
