// Users of an untrusted image, and the small parsers below them.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <memory>

#include "files.h"

extern "C" {
#include "../buffer.h"
#include "../lines.h"
#include "../text.h"
#include "../users.h"
}

namespace embervm::agent_test {
namespace {

struct Resolved {
  bool found = false;
  std::unique_ptr<user> who = std::make_unique<user>();
  std::string reason;
};

class Image {
 public:
  Image() {
    std::filesystem::create_directory(directory_.path() + "/etc");
    fd_ = open(directory_.path().c_str(), O_PATH | O_DIRECTORY);
    REQUIRE(fd_ >= 0);
  }
  ~Image() { close(fd_); }
  Image(const Image&) = delete;
  Image& operator=(const Image&) = delete;
  const TemporaryDirectory& files() const { return directory_; }
  void Passwd(const std::string& content) { directory_.Write("etc/passwd", content, 0644); }
  void Group(const std::string& content) { directory_.Write("etc/group", content, 0644); }
  Resolved Resolve(const std::string& wanted, bool needs_home = true) const {
    Resolved resolved;
    text reason{};
    resolved.found = users_resolve(fd_, wanted.c_str(), needs_home, resolved.who.get(), &reason);
    resolved.reason = reason.data;
    return resolved;
  }

 private:
  TemporaryDirectory directory_;
  int fd_ = -1;
};

TEST_CASE("users and groups by name and number") {
  Image image;
  image.Passwd(
      "root:x:0:0:root:/root:/bin/sh\n"
      "broken line\n"
      "::::::\n"
      "bad:x:notanumber:0::/:\n"
      "app:x:1000:1001:App:/home/app:/bin/sh\n"
      "1000:x:77:78::/home/digits:\n"
      "last:x:5:6::relative/home:/bin/sh");
  image.Group("root:x:0:\nwheel:x:10:app,other\nadm:x:11:other,app\nno:x:12:apparatus\n");
  const Resolved root = image.Resolve("");
  CHECK(root.found);
  CHECK(root.who->uid == 0);
  CHECK(std::string(root.who->home) == "/root");
  CHECK(std::string(root.who->name) == "root");

  const Resolved app = image.Resolve("app");
  CHECK(app.who->uid == 1000);
  CHECK(app.who->gid == 1001);
  REQUIRE(app.who->group_count == 2);
  CHECK(app.who->groups[0] == 10);
  CHECK(app.who->groups[1] == 11);

  // A name of digits wins over the number.
  CHECK(image.Resolve("1000").who->uid == 77);
  const Resolved with_group = image.Resolve("app:wheel");
  CHECK(with_group.who->gid == 10);
  CHECK(with_group.who->group_count == 0);
  CHECK(image.Resolve("app:4242").who->gid == 4242);
  const Resolved unknown = image.Resolve("4000");
  CHECK(unknown.found);
  CHECK(unknown.who->uid == 4000);
  CHECK(unknown.who->gid == 0);
  CHECK(std::string(unknown.who->home) == "/");
  CHECK(std::string(image.Resolve("last").who->home) == "/");
  CHECK(image.Resolve("3:4", false).who->gid == 4);

  for (const std::string wanted : {"bad", "nobody", "-1", "4294967295", "99999999999", "app:none",
                                   "app:", "broken line", " app"}) {
    CAPTURE(wanted);
    const Resolved resolved = image.Resolve(wanted);
    CHECK(!resolved.found);
    CHECK(!resolved.reason.empty());
  }
}

TEST_CASE("an image without files has numbers and root") {
  Image image;
  CHECK(image.Resolve("").found);
  CHECK(image.Resolve("5:6").who->gid == 6);
  CHECK(!image.Resolve("app").found);
}

TEST_CASE("links do not lead out of the image") {
  Image image;
  const TemporaryDirectory outside;
  outside.Write("passwd", "spy:x:1:1::/:\n", 0644);
  image.files().Write("real", "app:x:8:8::/:\n", 0644);
  const std::string passwd = image.files().path() + "/etc/passwd";
  REQUIRE(symlink((outside.path() + "/passwd").c_str(), passwd.c_str()) == 0);
  CHECK(!image.Resolve("spy").found);
  unlink(passwd.c_str());
  REQUIRE(symlink("../../../../../../../real", passwd.c_str()) == 0);
  CHECK(image.Resolve("app").who->uid == 8);
}

TEST_CASE("what is no regular file is refused without waiting") {
  Image image;
  const std::string passwd = image.files().path() + "/etc/passwd";
  REQUIRE(mkfifo(passwd.c_str(), 0644) == 0);
  CHECK(!image.Resolve("app").found);
  unlink(passwd.c_str());
  REQUIRE(mkdir(passwd.c_str(), 0755) == 0);
  CHECK(!image.Resolve("app").found);
  rmdir(passwd.c_str());
  REQUIRE(symlink("passwd", passwd.c_str()) == 0);
  CHECK(!image.Resolve("app").found);
}

TEST_CASE("hostile sizes are bounded") {
  Image image;
  image.Passwd(std::string(100'000, 'x') + "\napp:x:1:1::/:\n");
  CHECK(image.Resolve("app").found);
  image.Passwd(std::string(1000, 'n') + ":x:1:1::/:\n" + "app:x:2:2::/" + std::string(9000, 'h') +
               ":\n");
  CHECK(!image.Resolve(std::string(1000, 'n')).found);
  CHECK(std::string(image.Resolve("app").who->home) == "/");
  image.Passwd(std::string(5 << 20, '\n'));
  CHECK(!image.Resolve("app").found);
  image.Passwd(std::string("app:x:3:3::/\0:\n\0\0", 17));
  CHECK(image.Resolve("app").found);

  image.Passwd("app:x:1:1::/:\n");
  std::string groups;
  for (int i = 0; i < 300; i++) {
    groups += "g" + std::to_string(i) + ":x:" + std::to_string(i) + ":app\n";
  }
  image.Group(groups);
  CHECK(!image.Resolve("app").found);
  CHECK(image.Resolve("app:7").found);
}

TEST_CASE("text is cut at a character and says so") {
  text message{};
  text_clear(&message);
  for (int i = 0; i < 300; i++) {
    text_add(&message, "\xc3\xa9");
  }
  CHECK(message.cut);
  CHECK(message.length < sizeof(message.data));
  CHECK(message.length % 2 == 0);
  CHECK(message.data[message.length] == '\0');
  text_clear(&message);
  text_add_number(&message, UINT64_MAX);
  CHECK(std::string(message.data) == "18446744073709551615");
  text_failure(&message, "open", "/x", ENOENT);
  CHECK(std::string(message.data) == "open(/x): No such file or directory");

  uint64_t number = 0;
  CHECK(text_number("18446744073709551615", 20, UINT64_MAX, &number));
  CHECK(number == UINT64_MAX);
  CHECK(!text_number("18446744073709551616", 20, UINT64_MAX, &number));
  CHECK(!text_number("", 0, UINT64_MAX, &number));
  CHECK(!text_number("1 ", 2, UINT64_MAX, &number));
}

TEST_CASE("buffers keep order and bounds") {
  buffer bytes{};
  CHECK(buffer_reserve(&bytes, AGENT_BLOCK_SIZE + 1) == nullptr);
  uint8_t next_in = 0;
  uint8_t next_out = 0;
  size_t held = 0;
  for (int round = 0; round < 2000; round++) {
    const size_t size = static_cast<size_t>(round * 7919) % 50'000;
    uint8_t* at = buffer_reserve(&bytes, size);
    CHECK((at != nullptr) == (size <= AGENT_BLOCK_SIZE - held));
    if (at != nullptr) {
      for (size_t i = 0; i < size; i++) {
        at[i] = next_in++;
      }
      buffer_commit(&bytes, size);
      held += size;
    }
    const size_t taken = std::min(held, static_cast<size_t>(round * 104729) % 50'000);
    const uint8_t* from = held > 0 ? buffer_bytes(&bytes) : nullptr;
    bool in_order = true;
    for (size_t i = 0; i < taken; i++) {
      in_order = in_order && from[i] == next_out++;
    }
    CHECK(in_order);
    if (held > 0) {
      buffer_consume(&bytes, taken);
    }
    held -= taken;
    REQUIRE(bytes.length == held);
  }
  buffer_release(&bytes);
}

}  // namespace
}  // namespace embervm::agent_test
