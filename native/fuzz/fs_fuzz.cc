// FUSE messages of any content and framing, on a real directory. Nothing beside it is read
// or changed, whatever links and names there are.
#include <fuzzer/FuzzedDataProvider.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "base/bytes.h"
#include "devices/fs/options.h"
#include "devices/fs/protocol.h"
#include "devices/fs/server.h"
#include "fuzz/device_harness.h"

namespace embervm::fuzz {
namespace {

namespace fs = devices::fs;

constexpr int kMaxMessages = 24;
constexpr std::uint32_t kMaxOpenFiles = 40;
constexpr std::uint64_t kQuota = 65536;
constexpr std::size_t kMaxWords = 12;
constexpr std::size_t kMaxRaw = 300;
constexpr std::uint64_t kLastKnown = 12;
constexpr std::uint32_t kLastOpcode = 52;
constexpr const char* kSecret = "not for guests";
constexpr std::array<const char*, 12> kNames{
    "file", "dir", "inner", "up",        "absolute",  "new",
    "..",   ".",   "a/b",   "../secret", "user.name", "security.capability"};

// A process's own: what a message allocates is neither the host's disk nor its memory.
void LimitFileSize() {
  constexpr rlim_t kMaxFileBytes = 1U << 20U;
  const rlimit limit{.rlim_cur = kMaxFileBytes, .rlim_max = kMaxFileBytes};
  Require(::setrlimit(RLIMIT_FSIZE, &limit) == 0);
  Require(::signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
}

// What the server's directory is in, until the process ends.
class Scratch {
 public:
  Scratch() : path_("/dev/shm/embervm-fuzz-XXXXXX") {
    Require(::mkdtemp(path_.data()) != nullptr);
    LimitFileSize();
    std::ofstream(path_ + "/secret") << kSecret;
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

const std::string& Base() {
  static const Scratch scratch;
  return scratch.path();
}

void MakeTree(const std::string& root) {
  std::filesystem::remove_all(root);
  std::filesystem::create_directories(root + "/dir");
  std::ofstream(root + "/file") << "content";
  std::ofstream(root + "/dir/inner") << "content";
  std::filesystem::create_symlink("../secret", root + "/up");
  std::filesystem::create_symlink(Base(), root + "/absolute");
}

class Session {
 public:
  Session(FuzzedDataProvider& input, fs::Server& server) : input_(input), server_(server) {}

  void Run() {
    Send(static_cast<std::uint32_t>(fs::Opcode::kInit), InitBody());
    for (int i = 0; i < kMaxMessages && input_.remaining_bytes() > 0; ++i) {
      Send(input_.ConsumeIntegralInRange<std::uint32_t>(0, kLastOpcode), MakeBody());
    }
  }

 private:
  static std::vector<std::byte> InitBody() {
    const fs::InitIn in{.major = fs::kMajor, .minor = fs::kMinor, .max_readahead = 0, .flags = ~0U};
    const auto bytes = AsBytes(in);
    return {bytes.begin(), bytes.end()};
  }

  // Words that are often numbers of something, then names.
  std::vector<std::byte> MakeBody() {
    std::vector<std::byte> body;
    const auto append = [&body](std::span<const std::byte> bytes) {
      body.insert(body.end(), bytes.begin(), bytes.end());
    };
    for (auto left = input_.ConsumeIntegralInRange<std::size_t>(0, kMaxWords); left > 0; --left) {
      const bool known = input_.ConsumeBool();
      append(AsBytes(known ? input_.ConsumeIntegralInRange<std::uint64_t>(0, kLastKnown)
                           : input_.ConsumeIntegral<std::uint64_t>()));
    }
    for (auto left = input_.ConsumeIntegralInRange<int>(0, 2); left > 0; --left) {
      const std::string name = input_.PickValueInArray(kNames);
      append(std::as_bytes(std::span(name.c_str(), name.size() + 1)));
    }
    append(input_.ConsumeBytes<std::byte>(input_.ConsumeIntegralInRange<std::size_t>(0, kMaxRaw)));
    return body;
  }

  void Send(std::uint32_t opcode, const std::vector<std::byte>& body) {
    fs::InHeader header{};
    header.len = static_cast<std::uint32_t>(sizeof(header) + body.size());
    if (input_.ConsumeIntegralInRange(0, 15) == 15)
      header.len = input_.ConsumeIntegral<std::uint32_t>();
    header.opcode = opcode;
    header.unique = ++unique_;
    header.nodeid = input_.ConsumeIntegralInRange<std::uint64_t>(0, kLastKnown);
    header.uid = input_.ConsumeIntegral<std::uint8_t>();
    header.gid = header.uid;
    const auto bytes = AsBytes(header);
    std::vector<std::byte> message(bytes.begin(), bytes.end());
    message.insert(message.end(), body.begin(), body.end());

    // Of exactly its size, in two parts, so that the sanitizer sees every byte beyond.
    const auto cut = input_.ConsumeIntegralInRange<std::size_t>(0, message.size());
    std::vector<std::byte> first(message.begin(),
                                 message.begin() + static_cast<std::ptrdiff_t>(cut));
    std::vector<std::byte> second(message.begin() + static_cast<std::ptrdiff_t>(cut),
                                  message.end());
    constexpr std::array<std::size_t, 6> kRooms{4112, 16, 15, 0, 160, 1000};
    std::vector<std::byte> room(input_.PickValueInArray(kRooms));
    const std::array<virtio::Segment, 2> readable{
        {{.iov_base = first.data(), .iov_len = first.size()},
         {.iov_base = second.data(), .iov_len = second.size()}}};
    const virtio::Segment writable{.iov_base = room.data(), .iov_len = room.size()};
    const fs::Server::Outcome outcome = server_.Handle(readable, {&writable, 1});
    Require(outcome.used_length <= room.size());
    if (outcome.waiting.has_value()) {
      const auto used = server_.Retry(*outcome.waiting, {&writable, 1});
      Require(!used.has_value() || *used <= room.size());
    } else if (outcome.used_length != 0) {
      const auto answer = LoadLe<fs::OutHeader>(room);
      Require(answer.len == outcome.used_length);
      Require(answer.error <= 0 && answer.error > -4096);
      constexpr std::string_view kLeak = kSecret;
      const auto leak = std::as_bytes(std::span(kLeak));
      Require(std::ranges::search(room, leak).empty());
    }
    Require(server_.counters().open_files <= kMaxOpenFiles);
  }

  FuzzedDataProvider& input_;
  fs::Server& server_;
  std::uint64_t unique_ = 0;
};

void Run(FuzzedDataProvider& input) {
  const std::string root = Base() + "/root";
  MakeTree(root);
  devices::FsOptions options;
  options.tag = "share";
  options.path = root;
  options.read_only = input.ConsumeIntegralInRange(0, 7) == 7;
  options.host_locks = input.ConsumeBool();
  options.writeback = input.ConsumeBool();
  options.cache = static_cast<devices::FsCache>(input.ConsumeIntegralInRange(0, 2));
  options.max_open_files = kMaxOpenFiles;
  if (input.ConsumeBool()) options.squash.reset();
  options.quota_bytes = input.ConsumeBool() ? kQuota : 0;
  options.single_file = input.ConsumeIntegralInRange(0, 7) == 7;
  if (options.single_file) options.path = root + "/file";
  const auto server = fs::Server::Open(options).value();
  Session(input, *server).Run();

  std::size_t beside = 0;
  for (const auto& entry : std::filesystem::directory_iterator(Base())) {
    const std::string name = entry.path().filename();
    Require(name == "secret" || name == "root");
    ++beside;
  }
  Require(beside == 2);
  std::ifstream secret(Base() + "/secret");
  std::string content;
  std::getline(secret, content);
  Require(content == kSecret);
  struct stat status{};
  constexpr mode_t kAsMade = 0644;
  Require(::stat((Base() + "/secret").c_str(), &status) == 0 && status.st_uid == ::geteuid());
  Require((status.st_mode & ACCESSPERMS) == kAsMade);
}

}  // namespace
}  // namespace embervm::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzedDataProvider input(data, size);
  embervm::fuzz::Run(input);
  return 0;
}
