#include "devices/block/vmdk_descriptor.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <optional>
#include <utility>

namespace embervm::devices {

namespace {

constexpr std::string_view kSignature = "# Disk DescriptorFile";
constexpr std::string_view kSparseMagic = "KDMV";
constexpr std::string_view kNoParent = "ffffffff";
constexpr std::uint64_t kMaxSectors = std::uint64_t{1} << 54U;
constexpr std::string_view kBlanks = " \t\r";

std::unexpected<std::string> Wrong(std::string problem) {
  return std::unexpected(std::move(problem));
}

std::string_view Trim(std::string_view text) {
  const std::size_t first = text.find_first_not_of(kBlanks);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlanks) - first + 1);
}

bool SameWord(std::string_view left, std::string_view right) {
  return std::ranges::equal(left, right, [](unsigned char a, unsigned char b) {
    return std::tolower(a) == std::tolower(b);
  });
}

// Takes the first word off the text.
std::string_view TakeWord(std::string_view& text) {
  text = Trim(text);
  const std::string_view word = text.substr(0, text.find_first_of(kBlanks));
  text.remove_prefix(word.size());
  return word;
}

std::optional<std::uint64_t> ToNumber(std::string_view word) {
  std::uint64_t number = 0;
  const auto [end, failure] = std::from_chars(word.data(), word.data() + word.size(), number);
  if (failure != std::errc{} || end != word.data() + word.size()) return std::nullopt;
  return number;
}

// A name between quotation marks, taken off the text.
std::optional<std::string_view> TakeQuoted(std::string_view& text) {
  text = Trim(text);
  if (!text.starts_with('"')) return std::nullopt;
  const std::size_t end = text.find('"', 1);
  if (end == std::string_view::npos) return std::nullopt;
  const std::string_view name = text.substr(1, end - 1);
  text.remove_prefix(end + 1);
  return name;
}

// Whoever made the image must not choose which files of the host are read.
bool IsPlainName(std::string_view name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string_view::npos;
}

bool BeginsExtent(std::string_view line) {
  const std::string_view word = TakeWord(line);
  return SameWord(word, "RW") || SameWord(word, "RDONLY") || SameWord(word, "NOACCESS");
}

std::expected<VmdkExtent, std::string> ParseExtent(std::string_view line) {
  VmdkExtent extent;
  const std::string_view access = TakeWord(line);
  if (SameWord(access, "NOACCESS")) return Wrong("it has an extent without access");
  extent.writable = SameWord(access, "RW");
  const auto sectors = ToNumber(TakeWord(line));
  if (!sectors || *sectors == 0 || *sectors > kMaxSectors) {
    return Wrong("it has an extent without a size that can be");
  }
  extent.sectors = *sectors;
  const std::string_view type = TakeWord(line);
  if (SameWord(type, "ZERO")) {
    if (!Trim(line).empty()) return Wrong("it has an extent of zeroes with a file");
    return extent;
  }
  if (!SameWord(type, "FLAT")) {
    return Wrong("it has an extent of the type " + std::string(type.substr(0, 16)) +
                 "; only FLAT and ZERO are supported");
  }
  const auto name = TakeQuoted(line);
  if (!name || !IsPlainName(*name)) {
    return Wrong("the file of an extent must be the name of one beside it");
  }
  extent.file = *name;
  if (line = Trim(line); line.empty()) return extent;
  const auto offset = ToNumber(line);
  if (!offset || *offset > kMaxSectors) return Wrong("it has an extent with a wrong offset");
  extent.offset = *offset;
  return extent;
}

// The settings that decide whether the image can be used; all others are for other programs.
std::expected<void, std::string> CheckSetting(std::string_view line) {
  const std::size_t equals = line.find('=');
  if (equals == std::string_view::npos) return Wrong("it has a line of no known kind");
  const std::string_view key = Trim(line.substr(0, equals));
  std::string_view value = Trim(line.substr(equals + 1));
  if (const auto quoted = TakeQuoted(value)) value = *quoted;
  if (SameWord(key, "createType")) {
    if (SameWord(value, "monolithicFlat") || SameWord(value, "twoGbMaxExtentFlat")) return {};
    return Wrong("it is of the type " + std::string(value.substr(0, 32)) +
                 "; only monolithicFlat and twoGbMaxExtentFlat are supported");
  }
  if (SameWord(key, "version") && value != "1") return Wrong("it is of an unknown version");
  if (SameWord(key, "parentCID") && !SameWord(value, kNoParent)) {
    return Wrong("it has a parent, which is not supported");
  }
  if (SameWord(key, "parentFileNameHint")) return Wrong("it has a parent, which is not supported");
  return {};
}

}  // namespace

std::expected<VmdkDescriptor, std::string> VmdkDescriptor::Parse(std::string_view text) {
  if (text.starts_with(kSparseMagic))
    return Wrong("it is a sparse VMDK; only flat ones are supported");
  if (text.size() > kMaxBytes) return Wrong("it is too long for the descriptor of a VMDK");
  // Some programs fill the rest of a block.
  text = text.substr(0, text.find('\0'));
  if (!SameWord(Trim(text.substr(0, text.find('\n'))), kSignature)) {
    return Wrong("it is not the descriptor of a VMDK");
  }
  VmdkDescriptor descriptor;
  std::uint64_t sectors = 0;
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    const std::string_view line = Trim(text.substr(0, end));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (line.empty() || line.starts_with('#')) continue;
    if (!BeginsExtent(line)) {
      if (auto checked = CheckSetting(line); !checked) return Wrong(std::move(checked).error());
      continue;
    }
    auto extent = ParseExtent(line);
    if (!extent) return Wrong(std::move(extent).error());
    // Neither can overflow: both are at most 2^54.
    sectors += extent->sectors;
    if (sectors > kMaxSectors) return Wrong("it is larger than a disk can be");
    if (descriptor.extents.size() == kMaxExtents) return Wrong("it has more than 256 extents");
    descriptor.extents.push_back(*std::move(extent));
  }
  if (descriptor.extents.empty()) return Wrong("it has no extent");
  return descriptor;
}

}  // namespace embervm::devices
