#include "image/tar_sparse.h"

#include <algorithm>
#include <optional>
#include <string_view>

#include "base/checked.h"
#include "image/failure.h"
#include "image/tar_number.h"

namespace embervm::image {

namespace {

Result<> Append(SparseMap& map, std::uint64_t offset, std::uint64_t length) {
  if (map.size() >= kMaxSparseExtents) {
    return OverLimit("a sparse file has too many parts", kMaxSparseExtents);
  }
  map.push_back({.offset = offset, .length = length});
  return {};
}

}  // namespace

Result<> CheckSparseMap(const SparseMap& map, std::uint64_t file_bytes,
                        std::uint64_t stored_bytes) {
  std::uint64_t end = 0;
  std::uint64_t sum = 0;
  for (const SparseExtent& extent : map) {
    if (extent.offset < end || !RangeFits(extent.offset, extent.length, file_bytes)) {
      return Invalid("the map of a sparse file is not in order or reaches beyond its end");
    }
    end = extent.offset + extent.length;
    sum += extent.length;  // At most file_bytes.
  }
  if (sum != stored_bytes) {
    return Invalid("the map of a sparse file does not fit what is stored of it");
  }
  return {};
}

Result<> AppendGnuSparse(std::span<const std::byte> entries, SparseMap& map) {
  constexpr std::size_t kField = 12;
  for (; entries.size() >= 2 * kField; entries = entries.subspan(2 * kField)) {
    if (entries[0] == std::byte{} && entries[kField] == std::byte{}) return {};
    const auto offset = ParseTarNumber(entries.first(kField));
    const auto length = ParseTarNumber(entries.subspan(kField, kField));
    if (offset.value_or(-1) < 0 || length.value_or(-1) < 0) {
      return Invalid("a number in the map of a sparse file is none");
    }
    EMBERVM_TRY(
        Append(map, static_cast<std::uint64_t>(*offset), static_cast<std::uint64_t>(*length)));
  }
  return {};
}

Result<SparseMap> ParseSparseList(const std::string& text) {
  SparseMap map;
  std::optional<std::uint64_t> offset;
  std::string_view rest = text;
  while (!rest.empty()) {
    const std::size_t comma = std::min(rest.find(','), rest.size());
    const auto number = ParseDecimal(rest.substr(0, comma));
    if (!number.has_value()) return Invalid("a number in the map of a sparse file is none");
    rest.remove_prefix(std::min(comma + 1, rest.size()));
    if (!offset.has_value()) {
      offset = number;
      continue;
    }
    EMBERVM_TRY(Append(map, *offset, *number));
    offset.reset();
  }
  if (offset.has_value()) return Invalid("the map of a sparse file ends in the middle");
  return map;
}

Result<std::size_t> SparseMapParser::Push(std::span<const std::byte> bytes) {
  constexpr std::size_t kLongestNumber = 20;
  std::size_t taken = 0;
  while (!done_ && taken < bytes.size()) {
    const auto letter = std::to_integer<char>(bytes[taken++]);
    if (letter == '\n') {
      EMBERVM_TRY(Line());
    } else if (line_.size() >= kLongestNumber) {
      return Invalid("a number in the map of a sparse file is too long");
    } else {
      line_ += letter;
    }
  }
  return taken;
}

Result<> SparseMapParser::Line() {
  const auto number = ParseDecimal(line_);
  if (!number.has_value()) return Invalid("a number in the map of a sparse file is none");
  line_.clear();
  if (numbers_ == 0) {
    if (*number > kMaxSparseExtents) {
      return OverLimit("a sparse file has too many parts", kMaxSparseExtents);
    }
    wanted_ = 1 + 2 * *number;
  } else if (numbers_ % 2 == 1) {
    EMBERVM_TRY(Append(map_, *number, 0));
  } else {
    map_.back().length = *number;
  }
  done_ = ++numbers_ == wanted_;
  return {};
}

}  // namespace embervm::image
