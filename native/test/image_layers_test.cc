// What layers make of one another, and where paths may lead; images as other programs see them.
#include <doctest/doctest.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "test/support/image_fixture.h"
#include "test/support/tar_archive.h"

namespace embervm {
namespace {

using test::BuiltImage;
using test::TarArchive;
using test::TarMember;

// "d/" is a directory, "a->b" a link, "a=b" a hard link, all else a file with its name in it.
std::string Layer(const std::vector<std::string>& names) {
  TarArchive archive;
  for (const std::string& name : names) {
    if (const std::size_t arrow = name.find("->"); arrow != std::string::npos) {
      archive.Add({.name = name.substr(0, arrow), .type = '2', .link = name.substr(arrow + 2)});
    } else if (const std::size_t equals = name.find('='); equals != std::string::npos) {
      archive.Add({.name = name.substr(0, equals), .type = '1', .link = name.substr(equals + 1)});
    } else if (name.ends_with('/')) {
      archive.Add({.name = name, .type = '5', .mode = 0711});
    } else {
      archive.Add({.name = name, .body = name});
    }
  }
  return archive.Finished();
}

std::string CodeOf(const std::vector<std::string>& names) {
  return BuiltImage({Layer(names)}).code();
}

int RunFsck(const std::string& path) {
  const std::string command = "fsck.erofs --extract " + path + " > " + path + ".log 2>&1";
  // NOLINTNEXTLINE(cert-env33-c): a fixed program on a path of ours.
  const int status = std::system(command.c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST_CASE("whiteouts remove what lower layers made, and nothing else") {
  const std::string lower = Layer({"a/", "a/one", "a/two", "b/c/", "b/c/x", "file"});
  const auto lists = [&](const std::vector<std::string>& names, const std::string& where) {
    const BuiltImage image({lower, Layer(names)});
    REQUIRE_MESSAGE(image.good(), image.error());
    return image.list(where);
  };
  CHECK(lists({"a/.wh.one"}, "a") == "two");
  CHECK(lists({".wh.a", ".wh.file"}, "") == "b");
  CHECK(lists({"b/.wh.c"}, "b").empty());
  CHECK(lists({"a/.wh..wh..opq"}, "a").empty());
  CHECK(lists({"a/new", "a/.wh..wh..opq"}, "a") == "new");
  CHECK(lists({"a/.wh..wh..opq", "a/new"}, "a") == "new");
  CHECK(lists({".wh..wh..opq", "b/c/y"}, "") == "b");
  CHECK(lists({"b/c/y", ".wh..wh..opq"}, "b/c") == "y");
  // In the same layer, the new one is meant to stay, in whatever order they come.
  CHECK(lists({"a/.wh.one", "a/one"}, "a") == "one two");
  CHECK(lists({"a/one", "a/.wh.one"}, "a") == "one two");
  CHECK(lists({"a/three", ".wh.a"}, "a") == "three");
  CHECK(lists({"a/", ".wh.a"}, "a").empty());
  CHECK(lists({".wh.nothing", "no/.wh.thing", "file/.wh.x"}, "") == "a b file");
  // What aufs kept for itself.
  CHECK(lists({".wh..wh.plnk/1.2", ".wh..wh.aufs"}, "") == "a b file");
  CHECK(CodeOf({".wh.."}) == "ERR_IMAGE_INVALID");
  CHECK(CodeOf({".wh."}) == "ERR_IMAGE_INVALID");
  CHECK(CodeOf({".wh.a/b"}) == "ERR_IMAGE_INVALID");
  // Again in a third layer.
  const BuiltImage image({lower, Layer({"a/.wh.one"}), Layer({"a/one", "a/.wh.two"})});
  CHECK(image.list("a") == "one");
}

TEST_CASE("a type replaces another") {
  const std::string lower = Layer({"dir/", "dir/x", "file", "link->dir"});
  const BuiltImage image({lower, Layer({"dir", "file/", "link/", "link/y"})});
  REQUIRE_MESSAGE(image.good(), image.error());
  CHECK(image.content("dir") == "dir");
  CHECK(image.list("file").empty());
  CHECK(image.list("link") == "y");
  // A directory over a directory keeps what is in it.
  const BuiltImage again({lower, Layer({"dir/"})});
  CHECK(again.list("dir") == "x");
  CHECK(again.find("dir")->mode == (S_IFDIR | 0711U));
}

TEST_CASE("hard links across layers") {
  const std::string lower = Layer({"a", "sub/"});
  const BuiltImage image({lower, Layer({"sub/b=a", "sub/c=/sub/../sub/b"})});
  REQUIRE_MESSAGE(image.good(), image.error());
  CHECK(image.find("a")->links == 3);
  CHECK(image.find("sub/c")->nid == image.find("a")->nid);
  const BuiltImage gone({lower, Layer({"sub/b=a"}), Layer({".wh.a"})});
  CHECK(gone.find("sub/b")->links == 1);
  CHECK(gone.content("sub/b") == "a");
  const BuiltImage changed({lower, Layer({"sub/b=a"}), Layer({"a/"})});
  CHECK(changed.content("sub/b") == "a");
  const BuiltImage self({lower, Layer({"a=a"})});
  CHECK(self.content("a") == "a");
  const BuiltImage link({Layer({"s->nowhere", "t=s"})});
  CHECK(link.content("t") == "nowhere");
  CHECK(CodeOf({"b=missing"}) == "ERR_IMAGE_INVALID");
  CHECK(CodeOf({"d/", "b=d"}) == "ERR_IMAGE_INVALID");
  CHECK(CodeOf({"b=../../etc/passwd"}) == "ERR_IMAGE_INVALID");
  CHECK(CodeOf({"b=/"}) == "ERR_IMAGE_INVALID");
}

TEST_CASE("paths stay inside of the image") {
  const BuiltImage clean({Layer({"/abs", "./dot", "a/./b//c", "x/../y", "/"})});
  CHECK(clean.list("") == "a abs dot y");
  CHECK(clean.list("a/b") == "c");
  CHECK(clean.find("a")->mode == (S_IFDIR | 0755U));
  CHECK(clean.find("")->mode == (S_IFDIR | 0711U));
  CHECK(CodeOf({"../x"}) == "ERR_IMAGE_INVALID");
  CHECK(CodeOf({"a/../../x"}) == "ERR_IMAGE_INVALID");
  CHECK(CodeOf({"/../x"}) == "ERR_IMAGE_INVALID");
  CHECK(CodeOf({""}) == "ERR_IMAGE_INVALID");
  CHECK(CodeOf({"."}) == "ERR_IMAGE_INVALID");
  CHECK(CodeOf({"file", "file/x"}) == "ERR_IMAGE_INVALID");

  // Through links, as a merged /usr needs it; they lead nowhere but into the image.
  const BuiltImage merged({Layer({"usr/lib/", "lib->usr/lib"}), Layer({"lib/new"})});
  CHECK(merged.list("usr/lib") == "new");
  CHECK(merged.content("lib") == "usr/lib");
  const BuiltImage up({Layer({"d/out->../../../../etc", "d/out/passwd", "abs->/v", "abs/w"})});
  CHECK(up.list("etc") == "passwd");
  CHECK(up.list("v") == "w");
  CHECK(CodeOf({"a->b", "b->a", "a/x"}) == "ERR_IMAGE_INVALID");
  CHECK(CodeOf({"a->a", "a/x"}) == "ERR_IMAGE_INVALID");
  CHECK(CodeOf({"f", "a->f", "a/x"}) == "ERR_IMAGE_INVALID");
}

TEST_CASE("attributes that overlayfs or the format cannot have are left out") {
  TarArchive archive;
  const auto record = [](const std::string& name) {
    return TarArchive::Record("SCHILY.xattr." + name, "v");
  };
  archive.Pax(record("trusted.overlay.opaque") + record("user.overlay.redirect") +
              record("com.apple.x") + record("user.") + record("trusted.t") +
              record("system.posix_acl_access"));
  const BuiltImage image({archive.Add({.name = "x"}).Finished()});
  const std::map<std::string, std::string> expected = {{"trusted.t", "v"},
                                                       {"system.posix_acl_access", "v"}};
  CHECK(image.find("x")->xattrs == expected);
}

TEST_CASE("directories of any number of entries and lengths of names") {
  TarArchive archive;
  std::vector<std::string> names;
  for (int i = 0; i < 3000; ++i) {
    std::string name = std::to_string(i * 7919 % 10'007);
    name += std::string(static_cast<std::size_t>(i % 240), static_cast<char>('!' + i % 13));
    for (char& letter : name) letter = letter == '/' || letter == '.' ? '_' : letter;
    names.push_back(name);
    archive.Add({.name = "d/" + name.substr(0, 95)});
  }
  const BuiltImage image({archive.Finished()});
  REQUIRE_MESSAGE(image.good(), image.error());
  CHECK(image.find("d")->names.size() == 3000);
}

TEST_CASE("files of every length, with and without attributes") {
  TarArchive archive;
  for (const std::size_t bytes : {0U, 1U, 2047U, 2048U, 2049U, 4095U, 4096U, 4097U, 6144U, 6145U,
                                  65'535U, 65'536U, 65'537U, 200'000U}) {
    for (const std::size_t xattr : {0U, 3U, 900U, 5000U}) {
      if (xattr > 0) {
        archive.Pax(TarArchive::Record("SCHILY.xattr.user.x", std::string(xattr, 'x')));
      }
      archive.Add({.name = std::to_string(bytes) + "-" + std::to_string(xattr),
                   .body = std::string(bytes, static_cast<char>('a' + bytes % 26))});
    }
  }
  std::string target(4090, 't');
  archive.Add({.name = "././@LongLink", .type = 'K', .body = target});
  archive.Add({.name = "long-link", .type = '2'});
  const BuiltImage image({archive.Finished()});
  REQUIRE_MESSAGE(image.good(), image.error());
  for (const std::string& name : image.find("")->names) {
    if (name == "long-link") continue;
    const std::size_t bytes = std::stoul(name);
    CHECK(image.content(name) == std::string(bytes, static_cast<char>('a' + bytes % 26)));
    CHECK((image.find(name)->xattrs.empty() ? 0 : image.find(name)->xattrs.at("user.x").size()) ==
          std::stoul(name.substr(name.find('-') + 1)));
  }
  CHECK(image.content("long-link") == target);
}

TEST_CASE("content that a later layer replaced is not in the image") {
  const std::string secret(300'000, 's');
  const std::string lower = TarArchive()
                                .Add({.name = "keep", .body = std::string(50'000, 'k')})
                                .Add({.name = "secret", .body = secret})
                                .Add({.name = "after", .body = std::string(50'000, 'a')})
                                .Finished();
  const BuiltImage image({lower, Layer({".wh.secret"})});
  REQUIRE_MESSAGE(image.good(), image.error());
  CHECK(image.bytes().find("ssss") == std::string::npos);
  CHECK(image.content("keep") == std::string(50'000, 'k'));
  CHECK(image.content("after") == std::string(50'000, 'a'));
  struct stat status{};
  REQUIRE(::stat(image.path().c_str(), &status) == 0);
  CHECK(status.st_blocks * 512 < 200'000);
}

TEST_CASE("the same layers make the same bytes, and others another UUID") {
  const std::string lower = Layer({"a/", "a/one", "b"});
  const BuiltImage one({lower, Layer({"a/two"})});
  const BuiltImage two({lower, Layer({"a/two"})}, 100);
  const BuiltImage other({lower, Layer({"a/three"})});
  CHECK(one.bytes() == two.bytes());
  constexpr std::size_t kUuid = 1024 + 48;
  CHECK(one.bytes().substr(kUuid, 16) != other.bytes().substr(kUuid, 16));
}

TEST_CASE("fsck.erofs finds no fault, and extracts what was packed") {
  TarArchive archive;
  archive.Add({.name = "big", .body = std::string(1'000'000, 'b')});
  archive.Add({.name = "small", .body = "s", .mode = 0600, .mtime = 5});
  archive.Pax(TarArchive::Record("SCHILY.xattr.user.x", "value"));
  archive.Add({.name = "with", .body = std::string(3000, 'w')});
  archive.Add({.name = "hard", .type = '1', .link = "small"});
  archive.Add({.name = "link", .type = '2', .link = "small"});
  archive.Add({.name = "null", .type = '3', .major = 1, .minor = 3});
  archive.Add({.name = "fifo", .type = '6'});
  for (int i = 0; i < 500; ++i) {
    archive.Add({.name = "many/a-rather-long-name-" + std::to_string(i), .body = "x"});
  }
  const BuiltImage image({archive.Finished()});
  REQUIRE_MESSAGE(image.good(), image.error());
  CHECK(RunFsck(image.path()) == 0);
  // It does look: a directory whose first name begins outside of its block.
  std::string broken = image.bytes();
  const std::size_t many = broken.find("a-rather-long-name-0");
  REQUIRE(many != std::string::npos);
  broken.replace(many / 4096 * 4096 + 8, 2, "\xff\xff");
  std::ofstream(image.path(), std::ios::binary) << broken;
  CHECK(RunFsck(image.path()) != 0);
}

TEST_CASE("an image appears whole or not at all, and replaces the one before") {
  const test::TempDirectory directory;
  const std::string path = directory.path() + "/image";
  std::ofstream(path) << "old";
  {
    const auto builder = image::ImageBuilder::Create(path, {}).value();
    REQUIRE(builder->BeginLayer().has_value());
    CHECK(std::filesystem::file_size(path) == 3);
  }
  CHECK(std::distance(std::filesystem::directory_iterator(directory.path()), {}) == 1);
  const std::atomic<bool> no = false;
  const std::atomic<bool> yes = true;
  const std::string tar = directory.path() + "/tar";
  std::ofstream(tar, std::ios::binary) << Layer({"x"});
  CHECK(image::BuildImage({tar}, path, {}, yes).error().code() == "ERR_ABORTED");
  CHECK(image::BuildImage({tar + "-"}, path, {}, no).error().code() == "ERR_IMAGE_READ");
  CHECK(image::BuildImage({"/dev/zero"}, path, {}, no).error().code() == "ERR_IMAGE_READ");
  CHECK(image::BuildImage({tar}, "/nowhere/image", {}, no).error().code() == "ERR_IMAGE_WRITE");
  CHECK(std::filesystem::file_size(path) == 3);
  const auto report = image::BuildImage({tar, tar}, path, {}, no);
  REQUIRE(report.has_value());
  CHECK(report->image_bytes == std::filesystem::file_size(path));
  CHECK(report->inodes == 2);
  CHECK(std::distance(std::filesystem::directory_iterator(directory.path()), {}) == 2);
}

}  // namespace
}  // namespace embervm
