#include "image/tar_pax.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "image/failure.h"
#include "image/limits.h"

namespace embervm::image {

namespace {

constexpr std::string_view kXattrPrefix = "SCHILY.xattr.";
constexpr std::string_view kSparsePrefix = "GNU.sparse.";

struct Record {
  std::string_view key;
  std::string_view value;
};

// "27 mtime=1700000000.5\n": the length counts itself. Removes it from `body`.
Result<Record> NextRecord(std::string_view& body) {
  const std::size_t space = body.find(' ');
  const auto length = ParseDecimal(body.substr(0, space));
  if (space == std::string_view::npos || !length.has_value() || *length > body.size() ||
      *length < space + 3 || body[*length - 1] != '\n') {
    return Invalid("a pax header has a record of a wrong length");
  }
  const std::string_view record = body.substr(space + 1, *length - space - 2);
  const std::size_t equals = record.find('=');
  if (equals == std::string_view::npos || equals == 0) {
    return Invalid("a pax header has a record without a key");
  }
  body.remove_prefix(*length);
  return Record{.key = record.substr(0, equals), .value = record.substr(equals + 1)};
}

Error BadValue(const Record& record) {
  return Invalid("the pax record " + Quoted(record.key) + " has the value " + Quoted(record.value))
      .error();
}

// An empty value takes the record back.
Result<> SetText(const Record& record, std::optional<std::string>& field) {
  if (record.value.find('\0') != std::string_view::npos) return std::unexpected(BadValue(record));
  field.reset();
  if (!record.value.empty()) field = record.value;
  return {};
}

Result<> SetNumber(const Record& record, std::optional<std::uint64_t>& field) {
  field = ParseDecimal(record.value);
  if (!field.has_value() && !record.value.empty()) return std::unexpected(BadValue(record));
  return {};
}

Result<> SetXattr(const Record& record, PaxRecords& records) {
  const std::string name(record.key.substr(kXattrPrefix.size()));
  if (name.empty() || name.find('\0') != std::string::npos) {
    return std::unexpected(BadValue(record));
  }
  const auto cost = [&name](std::size_t value_bytes) {
    return name.size() + value_bytes + sizeof(std::uint32_t);
  };
  if (const auto old = records.xattrs.find(name); old != records.xattrs.end()) {
    records.xattr_bytes -= cost(old->second.size());
  }
  records.xattr_bytes += cost(record.value.size());
  if (records.xattr_bytes > kMaxXattrBytes) {
    return OverLimit("a file has too many bytes of extended attributes", kMaxXattrBytes);
  }
  records.xattrs.insert_or_assign(name, std::string(record.value));
  return {};
}

Result<> AppendSparse(const Record& record, std::string_view key, PaxRecords& records) {
  if (!records.sparse_map.has_value()) records.sparse_map.emplace();
  SparseMap& map = *records.sparse_map;
  const auto number = ParseDecimal(record.value);
  if (!number.has_value()) return std::unexpected(BadValue(record));
  if (key == "numbytes") {
    if (map.empty()) return std::unexpected(BadValue(record));
    map.back().length = *number;
    return {};
  }
  if (map.size() >= kMaxSparseExtents) {
    return OverLimit("a sparse file has too many parts", kMaxSparseExtents);
  }
  map.push_back({.offset = *number});
  return {};
}

Result<> SetSparse(const Record& record, PaxRecords& records) {
  const std::string_view key = record.key.substr(kSparsePrefix.size());
  if (key == "major") return SetNumber(record, records.sparse_major);
  if (key == "minor") return SetNumber(record, records.sparse_minor);
  if (key == "name") return SetText(record, records.sparse_name);
  if (key == "size" || key == "realsize") return SetNumber(record, records.sparse_size);
  if (key == "offset" || key == "numbytes") return AppendSparse(record, key, records);
  if (key == "map") {
    EMBERVM_TRY_ASSIGN(records.sparse_map, ParseSparseList(std::string(record.value)));
  }
  return {};
}

Result<> SetOwnership(const Record& record, PaxRecords& records) {
  if (record.key == "uid") return SetNumber(record, records.uid);
  if (record.key == "gid") return SetNumber(record, records.gid);
  if (record.key == "mtime") {
    records.mtime = ParsePaxTime(record.value);
    if (!records.mtime.has_value() && !record.value.empty()) {
      return std::unexpected(BadValue(record));
    }
  }
  if (record.key.starts_with(kXattrPrefix)) return SetXattr(record, records);
  return {};
}

}  // namespace

Result<> ParsePax(std::string_view body, PaxRecords& records) {
  while (!body.empty()) {
    EMBERVM_TRY_ASSIGN(const Record record, NextRecord(body));
    if (record.key == "path") {
      EMBERVM_TRY(SetText(record, records.path));
    } else if (record.key == "linkpath") {
      EMBERVM_TRY(SetText(record, records.link));
    } else if (record.key == "size") {
      EMBERVM_TRY(SetNumber(record, records.size));
    } else if (record.key.starts_with(kSparsePrefix)) {
      EMBERVM_TRY(SetSparse(record, records));
    } else {
      EMBERVM_TRY(SetOwnership(record, records));
    }
  }
  return {};
}

Result<> ParseGlobalPax(std::string_view body, PaxRecords& records) {
  while (!body.empty()) {
    EMBERVM_TRY_ASSIGN(const Record record, NextRecord(body));
    EMBERVM_TRY(SetOwnership(record, records));
  }
  return {};
}

}  // namespace embervm::image
