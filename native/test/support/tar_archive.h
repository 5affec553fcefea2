// TarArchive: archives made byte by byte, good ones and others.
#ifndef EMBERVM_TEST_SUPPORT_TAR_ARCHIVE_H_
#define EMBERVM_TEST_SUPPORT_TAR_ARCHIVE_H_

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <span>
#include <string>
#include <string_view>

namespace embervm::test {

struct TarMember {
  std::string name = {};
  char type = '0';
  std::string body = {};
  std::string link = {};
  unsigned mode = 0644;
  unsigned uid = 0;
  unsigned gid = 0;
  std::uint64_t mtime = 1'700'000'000;
  unsigned major = 0;
  unsigned minor = 0;
  // Unless it is that of the body.
  std::string size_field = {};
};

class TarArchive {
 public:
  static constexpr std::size_t kBlock = 512;

  TarArchive& Add(const TarMember& member) { return AddBlock(Header(member), member.body); }

  // A header that was made or changed by hand; its checksum is put in.
  TarArchive& AddBlock(std::string header, std::string_view body) {
    header.replace(148, 8, 8, ' ');
    unsigned sum = 0;
    for (const char letter : header) sum += static_cast<unsigned char>(letter);
    Put(header, 148, 8, Octal(sum, 6) + std::string("\0 ", 2));
    bytes_ += header;
    bytes_ += body;
    bytes_.append((kBlock - body.size() % kBlock) % kBlock, '\0');
    return *this;
  }

  TarArchive& Pax(std::string_view records, char type = 'x') {
    return Add({.name = "pax", .type = type, .body = std::string(records)});
  }

  TarArchive& Raw(std::string_view bytes) {
    bytes_ += bytes;
    return *this;
  }

  static std::string Record(std::string_view key, std::string_view value) {
    const std::size_t rest = key.size() + value.size() + 3;
    std::size_t length = rest + 1;
    while (length != rest + std::to_string(length).size()) ++length;
    return std::to_string(length) + " " + std::string(key) + "=" + std::string(value) + "\n";
  }

  static std::string Header(const TarMember& member) {
    std::string header(kBlock, '\0');
    Put(header, 0, 100, member.name);
    Put(header, 100, 8, Octal(member.mode, 7));
    Put(header, 108, 8, Octal(member.uid, 7));
    Put(header, 116, 8, Octal(member.gid, 7));
    Put(header, 124, 12,
        member.size_field.empty() ? Octal(member.body.size(), 11) : member.size_field);
    Put(header, 136, 12, Octal(member.mtime, 11));
    header[156] = member.type;
    Put(header, 157, 100, member.link);
    Put(header, 257, 8,
        std::string("ustar\0"
                    "00",
                    8));
    Put(header, 329, 8, Octal(member.major, 7));
    Put(header, 337, 8, Octal(member.minor, 7));
    return header;
  }

  static void Put(std::string& header, std::size_t at, std::size_t length,
                  const std::string& text) {
    header.replace(at, std::min(length, text.size()), text.substr(0, length));
  }

  static std::string Octal(std::uint64_t value, int digits) {
    std::string text(static_cast<std::size_t>(digits), '0');
    for (auto letter = text.rbegin(); letter != text.rend(); ++letter, value >>= 3U) {
      *letter = static_cast<char>('0' + (value & 7U));
    }
    return text;
  }

  // With the end mark.
  [[nodiscard]] std::string Finished() const { return bytes_ + std::string(2 * kBlock, '\0'); }
  [[nodiscard]] const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

}  // namespace embervm::test

#endif  // EMBERVM_TEST_SUPPORT_TAR_ARCHIVE_H_
