// Archives of every dialect, in chunks of every size, cut off everywhere, and hostile ones.
#include <doctest/doctest.h>

#include <array>
#include <string>

#include "image/tar_number.h"
#include "test/support/image_fixture.h"
#include "test/support/tar_archive.h"

namespace embervm {
namespace {

using test::BuiltImage;
using test::ErofsFile;
using test::TarArchive;
using test::TarMember;

std::string CodeOf(const std::string& layer, const image::ImageLimits& limits = {}) {
  return BuiltImage({layer}, 0, limits).code();
}

std::string CodeOf(const TarMember& member) { return CodeOf(TarArchive().Add(member).Finished()); }

std::string Pattern(std::size_t bytes) {
  std::string text(bytes, '\0');
  for (std::size_t i = 0; i < bytes; ++i) text[i] = static_cast<char>('a' + i * 7 % 26);
  return text;
}

// One of everything.
std::string Mixed() {
  TarArchive archive;
  archive.Add({.name = "d/", .type = '5', .mode = 0750, .uid = 3, .gid = 4});
  archive.Add({.name = "d/file", .body = Pattern(10'000), .mode = 04755, .uid = 1000});
  archive.Add({.name = "d/link", .type = '2', .link = "../x"});
  archive.Add({.name = "d/hard", .type = '1', .link = "d/file"});
  archive.Add({.name = "null", .type = '3', .mode = 0666, .major = 1, .minor = 3});
  archive.Add({.name = "disk", .type = '4', .major = 259, .minor = 70'000});
  archive.Add({.name = "fifo", .type = '6'});
  archive.Add({.name = "empty"});
  archive.Pax(TarArchive::Record("path", "p/" + std::string(200, 'n')) +
              TarArchive::Record("mtime", "-1.25") + TarArchive::Record("uid", "4000000000") +
              TarArchive::Record("SCHILY.xattr.user.one", std::string("a\0b", 3)) +
              TarArchive::Record("SCHILY.xattr.security.capability", "cap"));
  archive.Add({.name = "short", .body = "pax"});
  archive.Add({.name = "././@LongLink", .type = 'L', .body = "long/" + std::string(150, 'l')});
  archive.Add({.name = "././@LongLink", .type = 'K', .body = std::string(300, 't')});
  archive.Add({.name = "cut", .type = '2', .link = "cut"});
  return archive.Finished();
}

void CheckMixed(const BuiltImage& image) {
  REQUIRE_MESSAGE(image.good(), image.error());
  CHECK(image.list("") == "d disk empty fifo long null p");
  CHECK(image.list("d") == "file hard link");
  const ErofsFile& file = *image.find("d/file");
  CHECK(file.content == Pattern(10'000));
  CHECK(file.mode == (S_IFREG | 04755U));
  CHECK(file.uid == 1000);
  CHECK(file.links == 2);
  CHECK(file.mtime == 1'700'000'000);
  CHECK(image.find("d/hard")->nid == file.nid);
  CHECK(image.find("d")->mode == (S_IFDIR | 0750U));
  CHECK(image.find("d")->links == 2);
  CHECK(image.find("")->links == 5);
  CHECK(image.content("d/link") == "../x");
  CHECK(image.find("null")->mode == (S_IFCHR | 0666U));
  CHECK(image.find("null")->device == (1U << 8U | 3U));
  CHECK(image.find("disk")->device == (259U << 8U | (70'000U & 0xffU) | (70'000U >> 8U) << 20U));
  CHECK((image.find("fifo")->mode & S_IFMT) == S_IFIFO);
  const ErofsFile& pax = *image.find("p/" + std::string(200, 'n'));
  CHECK(pax.content == "pax");
  CHECK(pax.mtime == -2);
  CHECK(pax.mtime_nsec == 750'000'000);
  CHECK(pax.uid == 4'000'000'000);
  CHECK(pax.xattrs.at("user.one") == std::string("a\0b", 3));
  CHECK(pax.xattrs.at("security.capability") == "cap");
  CHECK(image.content("long/" + std::string(150, 'l')) == std::string(300, 't'));
}

TEST_CASE("archives of every dialect, in chunks of any size") {
  const std::string layer = Mixed();
  const BuiltImage whole({layer});
  CheckMixed(whole);
  for (const std::size_t chunk : {1U, 7U, 511U, 512U, 513U, 4096U}) {
    const BuiltImage image({layer}, chunk);
    CheckMixed(image);
    CHECK(image.bytes() == whole.bytes());
  }
}

TEST_CASE("an archive that is cut off anywhere but between two entries is refused") {
  const std::string layer = Mixed();
  int accepted = 0;
  int unpadded = 0;
  for (std::size_t length = 0; length < layer.size(); length += length % 512 == 0 ? 1 : 73) {
    const BuiltImage image({layer.substr(0, length)});
    if (image.good()) {
      ++accepted;
      if (length % 512 == 0) continue;
      // What is missing is padding, and nothing else.
      ++unpadded;
      CHECK(layer.find_first_not_of('\0', length) >= (length + 511) / 512 * 512);
      CHECK(image.bytes() == BuiltImage({layer.substr(0, (length + 511) / 512 * 512)}).bytes());
    } else {
      CHECK(image.code() == "ERR_IMAGE_INVALID");
      CHECK(!std::filesystem::exists(image.path()));
      CHECK(std::filesystem::is_empty(image.directory()));
    }
  }
  CHECK(accepted > 8);
  CHECK(unpadded > 2);
}

TEST_CASE("what old and foreign programs write") {
  SUBCASE("v7: a directory by its name, no magic") {
    std::string header = TarArchive::Header({.name = "old/", .type = '\0'});
    TarArchive::Put(header, 257, 8, std::string(8, '\0'));
    const BuiltImage image({TarArchive().AddBlock(header, "").Finished()});
    CHECK((image.find("old")->mode & S_IFMT) == S_IFDIR);
  }
  SUBCASE("ustar prefix, and star, which has times in its end") {
    std::string ustar = TarArchive::Header({.name = "name"});
    TarArchive::Put(ustar, 345, 155, "some/prefix");
    std::string star = TarArchive::Header({.name = "name"});
    TarArchive::Put(star, 345, 131, "star");
    TarArchive::Put(star, 476, 12, "14525252525 ");
    TarArchive::Put(star, 508, 4, std::string("tar\0", 4));
    const BuiltImage image({TarArchive().AddBlock(ustar, "").AddBlock(star, "").Finished()});
    CHECK(image.list("some/prefix") == "name");
    CHECK(image.list("star") == "name");
  }
  SUBCASE("GNU: numbers in base 256, and no prefix") {
    std::string header = TarArchive::Header({.name = "gnu"});
    TarArchive::Put(header, 257, 8, std::string("ustar  \0", 8));
    TarArchive::Put(header, 345, 12, "12345670123 ");
    TarArchive::Put(header, 108, 8, std::string("\x80\0\0\0\x7f\xff\xff\xff", 8));
    TarArchive::Put(header, 136, 12, std::string(11, '\xff') + "\xfe");
    const BuiltImage image({TarArchive().AddBlock(header, "").Finished()});
    REQUIRE(image.find("gnu") != nullptr);
    CHECK(image.find("gnu")->uid == 0x7fffffff);
    CHECK(image.find("gnu")->mtime == -2);
  }
  SUBCASE("global headers hold for owners and times, not for paths and sizes") {
    TarArchive archive;
    archive.Pax(TarArchive::Record("path", "evil") + TarArchive::Record("size", "7") +
                    TarArchive::Record("uid", "77") + TarArchive::Record("mtime", "5"),
                'g');
    archive.Add({.name = "one"}).Pax(TarArchive::Record("uid", "8")).Add({.name = "two"});
    const BuiltImage image({archive.Finished()});
    CHECK(image.list("") == "one two");
    CHECK(image.find("one")->uid == 77);
    CHECK(image.find("one")->mtime == 5);
    CHECK(image.find("two")->uid == 8);
  }
  SUBCASE("links have no body, whatever their size says; nothing matters after the end") {
    TarArchive archive;
    archive.Add({.name = "file", .body = "x"});
    archive.Add({.name = "hard", .type = '1', .link = "file", .size_field = "00000001000"});
    archive.Add({.name = "after"});
    const BuiltImage image({archive.Finished() + "garbage"});
    CHECK(image.list("") == "after file hard");
  }
  SUBCASE("no archive at all is an empty layer") {
    CHECK(BuiltImage({""}).list("").empty());
    CHECK(BuiltImage({std::string(10'240, '\0')}).list("").empty());
  }
}

TEST_CASE("sparse files in all four ways") {
  std::string expected(100'000, '\0');
  expected.replace(4096, 512, Pattern(512));
  expected.replace(90'000, 100, std::string(100, 'e'));
  const std::string stored = Pattern(512) + std::string(100, 'e');
  TarArchive archive;

  std::string old = TarArchive::Header({.name = "old", .type = 'S', .body = stored});
  TarArchive::Put(old, 386, 24, TarArchive::Octal(4096, 11) + " " + TarArchive::Octal(512, 11));
  TarArchive::Put(old, 483, 12, TarArchive::Octal(100'000, 11));
  std::string more(512, '\0');
  TarArchive::Put(more, 0, 24, TarArchive::Octal(90'000, 11) + " " + TarArchive::Octal(100, 11));
  old[482] = 1;
  archive.AddBlock(old, "").Raw(more).Raw(stored).Raw(std::string(1024 - stored.size(), '\0'));

  const auto record = TarArchive::Record;
  archive.Pax(record("GNU.sparse.size", "100000") + record("GNU.sparse.numblocks", "2") +
              record("GNU.sparse.offset", "4096") + record("GNU.sparse.numbytes", "512") +
              record("GNU.sparse.offset", "90000") + record("GNU.sparse.numbytes", "100"));
  archive.Add({.name = "pax00", .body = stored});
  archive.Pax(record("GNU.sparse.size", "100000") + record("GNU.sparse.numblocks", "2") +
              record("GNU.sparse.name", "pax01") + record("GNU.sparse.map", "4096,512,90000,100"));
  archive.Add({.name = "GNUSparseFile.1/pax01", .body = stored});
  std::string map = "2\n4096\n512\n90000\n100\n";
  map.resize(512);
  archive.Pax(record("GNU.sparse.major", "1") + record("GNU.sparse.minor", "0") +
              record("GNU.sparse.name", "pax10") + record("GNU.sparse.realsize", "100000"));
  archive.Add({.name = "GNUSparseFile.1/pax10", .body = map + stored});
  // All of it a hole.
  std::string none = "0\n";
  none.resize(512);
  archive.Pax(record("GNU.sparse.major", "1") + record("GNU.sparse.minor", "0") +
              record("GNU.sparse.realsize", "5000"));
  archive.Add({.name = "hole", .body = none});
  archive.Add({.name = "last", .body = "end"});

  for (const std::size_t chunk : {0U, 1U, 1000U}) {
    const BuiltImage image({archive.Finished()}, chunk);
    REQUIRE_MESSAGE(image.good(), image.error());
    CHECK(image.list("") == "hole last old pax00 pax01 pax10");
    for (const char* const name : {"old", "pax00", "pax01", "pax10"}) {
      CHECK_MESSAGE(image.content(name) == expected, name);
    }
    CHECK(image.content("hole") == std::string(5000, '\0'));
    CHECK(image.content("last") == "end");
  }
}

TEST_CASE("maps of sparse files that lie") {
  const auto code = [](std::string_view map, std::string_view size = "1000") {
    TarArchive archive;
    archive.Pax(TarArchive::Record("GNU.sparse.size", size) +
                TarArchive::Record("GNU.sparse.map", map));
    return CodeOf(archive.Add({.name = "file", .body = "0123456789"}).Finished());
  };
  CHECK(code("5,10").empty());
  CHECK(code("5,11") == "ERR_IMAGE_INVALID");
  CHECK(code("5,9") == "ERR_IMAGE_INVALID");
  CHECK(code("5") == "ERR_IMAGE_INVALID");
  CHECK(code("991,10") == "ERR_IMAGE_INVALID");
  CHECK(code("18446744073709551615,10") == "ERR_IMAGE_INVALID");
  CHECK(code("20,5,18,5") == "ERR_IMAGE_INVALID");
  CHECK(code("0,5,x,5") == "ERR_IMAGE_INVALID");
  CHECK(code("5,10", "18446744073709551615") == "ERR_IMAGE_LIMIT");
}

TEST_CASE("headers that no program writes") {
  CHECK(CodeOf({.name = "x", .size_field = "-0000000001"}) == "ERR_IMAGE_INVALID");
  CHECK(CodeOf({.name = "x", .size_field = std::string(12, '\xff')}) == "ERR_IMAGE_INVALID");
  CHECK(CodeOf({.name = "x", .type = '?'}) == "ERR_IMAGE_INVALID");
  CHECK(CodeOf({.name = "x", .type = '3', .major = 4096}) == "ERR_IMAGE_INVALID");
  CHECK(CodeOf(TarArchive().Raw(std::string(512, 'x')).Finished()) == "ERR_IMAGE_INVALID");
  CHECK(CodeOf(TarArchive().Raw(std::string(512, '\0')).Add({.name = "x"}).Finished()) ==
        "ERR_IMAGE_INVALID");
  const auto pax = [](std::string_view records) {
    return CodeOf(TarArchive().Pax(records).Add({.name = "x"}).Finished());
  };
  for (const char* const records : {"x", "5 a=b\n", "99 path=x\n", "3 \n", "12 noequals\n",
                                    "18446744073709551616 a=b\n", "0 a=b\n", "7 =abc\n"}) {
    CHECK_MESSAGE(pax(records) == "ERR_IMAGE_INVALID", records);
  }
  CHECK(pax(TarArchive::Record("size", "-1")) == "ERR_IMAGE_INVALID");
  CHECK(pax(TarArchive::Record("mtime", "now")) == "ERR_IMAGE_INVALID");
  CHECK(pax(TarArchive::Record("uid", "4294967295")) == "ERR_IMAGE_INVALID");
  CHECK(pax(TarArchive::Record("path", std::string("a\0b", 3))) == "ERR_IMAGE_INVALID");
  CHECK(CodeOf(TarArchive().Pax(TarArchive::Record("path", "x")).Finished()) ==
        "ERR_IMAGE_INVALID");
}

TEST_CASE("limits") {
  image::ImageLimits limits;
  TarArchive archive;
  for (int i = 0; i < 5; ++i) archive.Add({.name = std::to_string(i), .body = Pattern(5000)});
  const std::string layer = archive.Finished();
  CHECK(CodeOf(layer).empty());
  SUBCASE("entries") { limits.max_entries = 4; }
  SUBCASE("one file") { limits.max_file_bytes = 4999; }
  SUBCASE("all files") { limits.max_total_bytes = 24'999; }
  SUBCASE("the image") { limits.max_image_bytes = 28'672; }
  SUBCASE("metadata") { limits.max_metadata_bytes = 2; }
  SUBCASE("layers") { limits.max_layers = 0; }
  CHECK(CodeOf(layer, limits) == "ERR_IMAGE_LIMIT");
}

TEST_CASE("limits of one entry") {
  const auto pax = [](std::string_view key, std::string_view value) {
    return CodeOf(TarArchive().Pax(TarArchive::Record(key, value)).Add({.name = "x"}).Finished());
  };
  std::string deep;
  for (int i = 0; i < 130; ++i) deep += "d/";
  CHECK(pax("path", deep) == "ERR_IMAGE_LIMIT");
  CHECK(pax("path", deep.substr(4)).empty());
  CHECK(pax("path", std::string(5000, '/') + "x") == "ERR_IMAGE_LIMIT");
  CHECK(pax("path", std::string(256, 'x')) == "ERR_IMAGE_LIMIT");
  CHECK(pax("path", std::string(255, 'x')).empty());
  CHECK(pax("SCHILY.xattr.user.a", std::string(70'000, 'x')) == "ERR_IMAGE_LIMIT");
  CHECK(pax("SCHILY.xattr.user.a", std::string(60'000, 'x')).empty());
  CHECK(pax("comment", std::string(1'100'000, 'x')) == "ERR_IMAGE_LIMIT");
}

TEST_CASE("numbers of tar") {
  const auto parse = [](std::string_view text) {
    return image::ParseTarNumber(std::as_bytes(std::span(text)));
  };
  CHECK(parse("") == 0);
  CHECK(parse("   \0") == 0);
  CHECK(parse(" 0017 ") == 15);
  CHECK(parse("777777777777") == 0xfffffffff);
  CHECK(!parse("8").has_value());
  CHECK(!parse("1 1").has_value());
  CHECK(!parse("-1").has_value());
  CHECK(!parse("7777777777777777777777777").has_value());
  CHECK(parse("\x80\x01\x02") == 0x102);
  CHECK(parse("\xff\xff\xfe") == -2);
  CHECK(parse(std::string(1, '\x80') + std::string(3, '\0') + "\x7f" + std::string(7, '\xff')) ==
        0x7fffffffffffffff);
  CHECK(!parse(std::string(1, '\x80') + std::string(3, '\0') + std::string(8, '\xff')));
  CHECK(!parse("\x81" + std::string(11, '\0')).has_value());
  CHECK(image::ParsePaxTime("1.000000001999")->nanoseconds == 1);
  CHECK(!image::ParsePaxTime("1.x").has_value());
  CHECK(!image::ParsePaxTime("").has_value());
  CHECK(!image::ParsePaxTime("9223372036854775807").has_value());
}

}  // namespace
}  // namespace embervm
