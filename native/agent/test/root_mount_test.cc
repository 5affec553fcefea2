// MountInRoot for real: what is mounted where, what is made for it, and what is refused.
#include <doctest/doctest.h>

#include <filesystem>
#include <string>

#include "root_fixture.h"

namespace embervm::agent_test {
namespace {

struct Place {
  std::string target;
  bool read_only = false;
  bool no_exec = false;
  bool no_suid = false;
  bool no_dev = false;
};

// Puts the place into a request whose source is set.
std::string At(const Place& place, Embervm__Agent__V1__MountInRootRequest& request) {
  request.target = Mutable(place.target);
  request.read_only = place.read_only;
  request.no_exec = place.no_exec;
  request.no_suid = place.no_suid;
  request.no_dev = place.no_dev;
  return Pack(request.base);
}

std::string Memory(const Place& place, uint64_t size_bytes = 0, uint32_t mode = 0) {
  Embervm__Agent__V1__TmpfsSource tmpfs = EMBERVM__AGENT__V1__TMPFS_SOURCE__INIT;
  tmpfs.size_bytes = size_bytes;
  tmpfs.mode = mode;
  Embervm__Agent__V1__MountInRootRequest request = EMBERVM__AGENT__V1__MOUNT_IN_ROOT_REQUEST__INIT;
  request.source_case = EMBERVM__AGENT__V1__MOUNT_IN_ROOT_REQUEST__SOURCE_TMPFS;
  request.tmpfs = &tmpfs;
  return At(place, request);
}

std::string OfDisk(const Place& place, const std::string& device, const std::string& fstype = {},
                   bool grow = false) {
  Embervm__Agent__V1__DiskSource disk = EMBERVM__AGENT__V1__DISK_SOURCE__INIT;
  disk.device = Mutable(device);
  disk.fstype = Mutable(fstype);
  disk.grow = grow;
  Embervm__Agent__V1__MountInRootRequest request = EMBERVM__AGENT__V1__MOUNT_IN_ROOT_REQUEST__INIT;
  request.source_case = EMBERVM__AGENT__V1__MOUNT_IN_ROOT_REQUEST__SOURCE_DISK;
  request.disk = &disk;
  return At(place, request);
}

std::string OfShare(const Place& place, const std::string& tag) {
  Embervm__Agent__V1__ShareSource share = EMBERVM__AGENT__V1__SHARE_SOURCE__INIT;
  share.tag = Mutable(tag);
  Embervm__Agent__V1__MountInRootRequest request = EMBERVM__AGENT__V1__MOUNT_IN_ROOT_REQUEST__INIT;
  request.source_case = EMBERVM__AGENT__V1__MOUNT_IN_ROOT_REQUEST__SOURCE_SHARE;
  request.share = &share;
  return At(place, request);
}

// The errno of the answer, whose message is kept for the case of a failure.
int MountInRoot(Client& client, const std::string& request) {
  const Answer answer = client.Call(kAgentService, "MountInRoot", request);
  CAPTURE(answer.message);
  REQUIRE(answer.code == 0);
  const auto* bytes = reinterpret_cast<const uint8_t*>(answer.payload.data());
  auto* response =
      embervm__agent__v1__mount_in_root_response__unpack(nullptr, answer.payload.size(), bytes);
  REQUIRE(response != nullptr);
  const int error = response->error_number;
  CHECK((error != 0) == (std::string(response->message) != ""));
  embervm__agent__v1__mount_in_root_response__free_unpacked(response, nullptr);
  return error;
}

TEST_CASE_FIXTURE(Fixture, "mounts inside the root: memory and disks, with what is missing") {
  const std::string tree = MakeTree(directory, "tree");
  // Links lead where they lead in the root, or the agent would mount at a place of its own.
  std::filesystem::create_symlink("/../../../far", tree + "/link");
  std::filesystem::create_symlink("/", tree + "/self");
  directory.Write("disk/file", "on a disk", 0644);
  const std::string image = directory.path() + "/image.erofs";
  RunCommand("mkfs.erofs --quiet " + image + " " + directory.path() + "/disk");
  const std::string ext4 = directory.path() + "/data.ext4";
  RunCommand("truncate -s 16M " + ext4 + " && mkfs.ext4 -q " + ext4 + " && truncate -s 64M " +
             ext4);
  const bool can_grow = HasCapability(CAP_SYS_RESOURCE);
  {
    const LoopDevice erofs(image);
    const LoopDevice data(ext4);
    AgentProcess agent(Initramfs(scratch, tree));
    Client control(agent.AcceptControl());
    const std::string early = Memory({.target = "/early"});
    CHECK(control.Call(kAgentService, "MountInRoot", early).code == kFailedPrecondition);
    REQUIRE(control.Call(kAgentService, "SetUpRoot", Directory(nullptr, "/image")).code == 0);

    CHECK(MountInRoot(control, Memory({"/a/b/c", false, true, true, true}, 1 << 20, 0700)) == 0);
    CHECK(Shell(control, "stat -c %a /a /a/b /a/b/c") == "755\n755\n700\n");
    CHECK(Shell(control, "cat /proc/self/mounts")
              .find("/a/b/c tmpfs rw,nosuid,nodev,noexec,relatime,size=1024k") !=
          std::string::npos);
    CHECK(MountInRoot(control, Memory({.target = "/link/deep"})) == ENOENT);
    CHECK(MountInRoot(control, Memory({.target = "/self/via"})) == 0);
    CHECK(Shell(control, "stat -c %a /via") == "1777\n");

    CHECK(MountInRoot(control, OfDisk({.target = "/disk", .read_only = true}, erofs.path())) == 0);
    CHECK(Shell(control, "cat /disk/file") == "on a disk");
    CHECK(MountInRoot(control, OfDisk({.target = "/data"}, data.path(), "", can_grow)) == 0);
    CHECK(Shell(control, "echo kept > /data/file && cat /data/file") == "kept\n");
    const long bytes = std::stol(Shell(control, "stat -f -c %b /data")) * 1024;
    CHECK(bytes > (can_grow ? 40L << 20 : 8L << 20));

    // What cannot be: nothing of it is left.
    CHECK(MountInRoot(control, Memory({.target = "/etc/passwd"})) != 0);
    CHECK(MountInRoot(control, Memory({.target = "/etc/passwd/below"})) == ENOTDIR);
    CHECK(MountInRoot(control, Memory({.target = "/"})) == EBUSY);
    CHECK(MountInRoot(control, Memory({.target = "/self"})) == EBUSY);
    CHECK(MountInRoot(control, Memory({.target = "/../.."})) == EBUSY);
    CHECK(MountInRoot(control, OfDisk({.target = "/x"}, "/dev/none")) == ENOENT);
    CHECK(MountInRoot(control, OfDisk({.target = "/x"}, data.path(), "nosuchfs")) == ENODEV);
    CHECK(MountInRoot(control, OfShare({.target = "/x"}, "nobody")) != 0);
    const std::string bad[] = {
        Memory({.target = ""}),
        Memory({.target = "relative"}),
        Memory({.target = "/" + std::string(5000, 'x')}),
        Memory({.target = "/x"}, 0, 010000),
        OfDisk({.target = "/x"}, "relative"),
        OfShare({.target = "/x"}, ""),
        OfShare({.target = "/x"}, std::string(37, 't')),
        {},
    };
    for (const std::string& request : bad) {
      CHECK(control.Call(kAgentService, "MountInRoot", request).code == kInvalidArgument);
    }
    CHECK(Shell(control, "ls /; cat /proc/self/mounts").find("\nx\n") == std::string::npos);

    CHECK(control.Call(kAgentService, "PowerOff", PowerOff(0)).code == 0);
    CHECK(ExitStatus(agent) == kPoweredOff);
  }
  const std::string header = RunCommand("dumpe2fs -h " + ext4);
  CHECK(header.find("needs_recovery") == std::string::npos);
  RunCommand("e2fsck -fn " + ext4);
}

}  // namespace
}  // namespace embervm::agent_test
