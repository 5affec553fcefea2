#include "image/tar_reader.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "image/failure.h"

namespace embervm::image {

namespace {

// What a pax header or a long name may be; Go's reader has the same limit.
constexpr std::uint64_t kMaxExtensionBytes = std::uint64_t{1} << 20U;
constexpr std::uint32_t kPermissions = 07777;
// What new_encode_dev() of Linux has room for.
constexpr std::int64_t kMaxMajor = 0xfff;
constexpr std::int64_t kMaxMinor = 0xfffff;
// 2^32 - 1 is no owner: chown(2) takes it for "leave as it is".
constexpr std::int64_t kMaxId = 0xfffffffe;

// Offsets and lengths in a header: POSIX.1-2017, pax, "ustar Interchange Format".
struct Field {
  std::size_t offset;
  std::size_t length;
};
constexpr Field kName{0, 100};
constexpr Field kMode{100, 8};
constexpr Field kUid{108, 8};
constexpr Field kGid{116, 8};
constexpr Field kSize{124, 12};
constexpr Field kMtime{136, 12};
constexpr Field kChecksum{148, 8};
constexpr std::size_t kTypeFlag = 156;
constexpr Field kLinkName{157, 100};
constexpr Field kMagic{257, 6};
constexpr Field kDevMajor{329, 8};
constexpr Field kDevMinor{337, 8};
constexpr Field kPrefix{345, 155};
// star keeps times where ustar has the end of the prefix, and signs in the last bytes.
constexpr Field kStarPrefix{345, 131};
constexpr Field kStarMagic{508, 4};
// GNU tar, old sparse headers.
constexpr Field kGnuSparse{386, 96};
constexpr std::size_t kGnuIsExtended = 482;
constexpr Field kGnuRealSize{483, 12};
constexpr std::size_t kGnuBlockIsExtended = 504;

std::uint64_t PaddingOf(std::uint64_t bytes) {
  return (TarReader::kBlockBytes - bytes % TarReader::kBlockBytes) % TarReader::kBlockBytes;
}

std::string_view AsText(std::span<const std::byte> bytes) {
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast): bytes may be read as char.
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Summed with the field itself as blanks. Some old programs summed signed bytes.
bool ChecksumHolds(std::span<const std::byte> block) {
  std::int64_t plain = 0;
  std::int64_t with_sign = 0;
  for (std::size_t i = 0; i < block.size(); ++i) {
    const bool own = i >= kChecksum.offset && i < kChecksum.offset + kChecksum.length;
    const std::byte byte = own ? std::byte{' '} : block[i];
    plain += std::to_integer<std::uint8_t>(byte);
    with_sign += std::to_integer<std::int8_t>(byte);
  }
  const auto wanted = ParseTarNumber(block.subspan(kChecksum.offset, kChecksum.length));
  return wanted.has_value() && (*wanted == plain || *wanted == with_sign);
}

bool HasBody(char type) {
  // As in Go's reader: links, devices and fifos have none, whatever their size field says.
  return std::string_view("123456").find(type) == std::string_view::npos;
}

}  // namespace

Result<> TarReader::Push(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    EMBERVM_TRY_ASSIGN(const std::size_t taken, Step(bytes));
    bytes = bytes.subspan(taken);
  }
  return {};
}

Result<> TarReader::Finish() {
  const bool between =
      (state_ == State::kHeader && block_filled_ == 0) || state_ == State::kPadding;
  if (state_ != State::kEnd && (!between || has_extension_)) {
    return Invalid("the archive is cut off in the middle of an entry");
  }
  return {};
}

Result<std::size_t> TarReader::Step(std::span<const std::byte> bytes) {
  switch (state_) {
    case State::kHeader:
    case State::kSparseBlocks: {
      const std::size_t count = std::min(bytes.size(), kBlockBytes - block_filled_);
      std::ranges::copy(bytes.first(count),
                        block_.begin() + static_cast<std::ptrdiff_t>(block_filled_));
      block_filled_ += count;
      if (block_filled_ == kBlockBytes) {
        block_filled_ = 0;
        EMBERVM_TRY(OnBlock());
      }
      return count;
    }
    case State::kExtension: {
      const std::size_t count = std::min<std::uint64_t>(bytes.size(), stored_left_);
      extension_ += AsText(bytes.first(count));
      stored_left_ -= count;
      if (stored_left_ == 0) EMBERVM_TRY(OnExtension());
      return count;
    }
    case State::kSparseMap: {
      const auto most = std::min<std::uint64_t>(bytes.size(), stored_left_);
      EMBERVM_TRY_ASSIGN(const std::size_t count, map_parser_.Push(bytes.first(most)));
      stored_left_ -= count;
      map_bytes_ += count;
      if (!map_parser_.done()) {
        if (stored_left_ == 0) return Invalid("the map of a sparse file is cut off");
        return count;
      }
      // It is padded to whole blocks, which are part of what is stored.
      map_padding_ = PaddingOf(map_bytes_);
      if (map_padding_ > stored_left_) return Invalid("the map of a sparse file is cut off");
      stored_left_ -= map_padding_;
      map_ = map_parser_.Take();
      EMBERVM_TRY(Deliver());
      return count;
    }
    case State::kData:
      return TakeData(bytes);
    case State::kPadding: {
      const std::size_t count = std::min<std::uint64_t>(bytes.size(), padding_left_);
      padding_left_ -= count;
      if (padding_left_ == 0) state_ = State::kHeader;
      return count;
    }
    case State::kEnd:
      break;
  }
  // What follows the end mark is padding of the writer's records.
  return bytes.size();
}

Result<> TarReader::OnBlock() {
  if (state_ == State::kSparseBlocks) return OnSparseBlock();
  if (std::ranges::all_of(block_, [](std::byte byte) { return byte == std::byte{}; })) {
    if (has_extension_) return Invalid("the archive ends after an extended header");
    if (saw_zero_block_) state_ = State::kEnd;
    saw_zero_block_ = true;
    return {};
  }
  if (saw_zero_block_) return Invalid("the archive goes on after an empty block");
  return OnHeader();
}

Result<> TarReader::OnHeader() {
  // At most a pax header and two long names for each entry.
  constexpr std::uint64_t kHeadersPerEntry = 4;
  if (++headers_ > limits_.max_entries * kHeadersPerEntry) {
    return OverLimit("the archive has too many entries", limits_.max_entries);
  }
  if (!ChecksumHolds(block_)) return Invalid("a header of the archive has a wrong checksum");
  const auto type = std::to_integer<char>(block_[kTypeFlag]);
  EMBERVM_TRY_ASSIGN(const std::int64_t size, Number(kSize.offset, kSize.length, "size"));
  if (size < 0) return Invalid("an entry has a negative size");
  const auto bytes = static_cast<std::uint64_t>(size);
  if (std::string_view("xXgLK").find(type) != std::string_view::npos) {
    return BeginExtension(type, bytes);
  }
  return OnMember(type, pax_.size.value_or(bytes));
}

Result<> TarReader::BeginExtension(char type, std::uint64_t bytes) {
  if (bytes > kMaxExtensionBytes) {
    return OverLimit("an extended header is too long", kMaxExtensionBytes);
  }
  extension_type_ = type;
  extension_.clear();
  has_extension_ = has_extension_ || type != 'g';
  stored_left_ = bytes;
  padding_left_ = PaddingOf(bytes);
  state_ = State::kExtension;
  return bytes == 0 ? OnExtension() : Result<>();
}

Result<> TarReader::OnExtension() {
  state_ = padding_left_ > 0 ? State::kPadding : State::kHeader;
  if (extension_type_ == 'x' || extension_type_ == 'X') return ParsePax(extension_, pax_);
  if (extension_type_ == 'g') return ParseGlobalPax(extension_, global_);
  // Ends with a NUL.
  std::string name = extension_.substr(0, extension_.find('\0'));
  (extension_type_ == 'L' ? long_name_ : long_link_) = std::move(name);
  return {};
}

Result<> TarReader::OnMember(char type, std::uint64_t stored) {
  entry_ = TarEntry{};
  map_.clear();
  extent_ = 0;
  in_extent_ = 0;
  stored_left_ = HasBody(type) ? stored : 0;
  padding_left_ = PaddingOf(stored_left_);
  discard_ = false;
  EMBERVM_TRY(ReadNames(type));
  EMBERVM_TRY(ReadAttributes());
  EMBERVM_TRY(ReadType(type));
  if (discard_) return Deliver();
  return PrepareSparse(type);
}

Result<> TarReader::ReadNames(char type) {
  std::string path = Text(kName.offset, kName.length);
  const std::string_view magic = AsText(std::span(block_).subspan(kMagic.offset, kMagic.length));
  if (magic == std::string_view("ustar\0", kMagic.length)) {
    const bool is_star = AsText(std::span(block_).subspan(kStarMagic.offset, kStarMagic.length)) ==
                         std::string_view("tar\0", kStarMagic.length);
    const Field field = is_star ? kStarPrefix : kPrefix;
    const std::string prefix = Text(field.offset, field.length);
    if (!prefix.empty()) path = prefix + "/" + path;
  }
  if (long_name_.has_value()) path = std::move(*long_name_);
  if (pax_.path.has_value()) path = std::move(*pax_.path);
  if (pax_.is_sparse() && pax_.sparse_name.has_value()) path = std::move(*pax_.sparse_name);
  if (path.size() > limits_.max_path_bytes) {
    return OverLimit("a path in the archive is too long", limits_.max_path_bytes);
  }
  entry_.path = std::move(path);

  std::string link = Text(kLinkName.offset, kLinkName.length);
  if (long_link_.has_value()) link = std::move(*long_link_);
  if (pax_.link.has_value()) link = std::move(*pax_.link);
  if (link.size() > kMaxLinkBytes) {
    return OverLimit("the target of a link in the archive is too long", kMaxLinkBytes);
  }
  if (type == '1' || type == '2') entry_.link = std::move(link);
  return {};
}

Result<> TarReader::ReadAttributes() {
  Attributes& to = entry_.attributes;
  EMBERVM_TRY_ASSIGN(const std::int64_t mode, Number(kMode.offset, kMode.length, "mode"));
  to.mode = static_cast<std::uint32_t>(mode) & kPermissions;
  // Where a record replaces the field, the field may be out of its range.
  const auto id = [this](std::optional<std::uint64_t> own, std::optional<std::uint64_t> global,
                         Field field, const char* what) -> Result<std::uint32_t> {
    if (!own.has_value()) own = global;
    if (!own.has_value()) {
      EMBERVM_TRY_ASSIGN(const std::int64_t number, Number(field.offset, field.length, what));
      own = static_cast<std::uint64_t>(number);
    }
    if (*own > kMaxId) return Invalid(std::string("an entry has an impossible ") + what);
    return static_cast<std::uint32_t>(*own);
  };
  EMBERVM_TRY_ASSIGN(to.uid, id(pax_.uid, global_.uid, kUid, "uid"));
  EMBERVM_TRY_ASSIGN(to.gid, id(pax_.gid, global_.gid, kGid, "gid"));
  const std::optional<TarTime> time = pax_.mtime.has_value() ? pax_.mtime : global_.mtime;
  if (time.has_value()) {
    to.mtime = time->seconds;
    to.mtime_nsec = time->nanoseconds;
  } else {
    EMBERVM_TRY_ASSIGN(to.mtime, Number(kMtime.offset, kMtime.length, "time"));
  }
  to.xattrs = std::move(pax_.xattrs);
  to.xattrs.insert(global_.xattrs.begin(), global_.xattrs.end());
  return {};
}

Result<> TarReader::ReadType(char type) {
  switch (type) {
    case '\0':
      // v7 has no directories but by name.
      if (entry_.path.ends_with('/')) {
        entry_.type = FileType::kDirectory;
        discard_ = true;
      }
      return {};
    case '0':
    case '7':  // "Contiguous" files.
    case 'S':
      return {};
    case '1':
      entry_.hard_link = true;
      return {};
    case '2':
      entry_.type = FileType::kSymlink;
      return {};
    case '3':
    case '4': {
      entry_.type = type == '3' ? FileType::kCharDevice : FileType::kBlockDevice;
      EMBERVM_TRY_ASSIGN(const std::int64_t major,
                         Number(kDevMajor.offset, kDevMajor.length, "device number"));
      EMBERVM_TRY_ASSIGN(const std::int64_t minor,
                         Number(kDevMinor.offset, kDevMinor.length, "device number"));
      if (major < 0 || major > kMaxMajor || minor < 0 || minor > kMaxMinor) {
        return Invalid("an entry has an impossible device number");
      }
      entry_.device_major = static_cast<std::uint32_t>(major);
      entry_.device_minor = static_cast<std::uint32_t>(minor);
      return {};
    }
    case '5':
    case 'D':  // GNU: with the names in the directory as the body.
      entry_.type = FileType::kDirectory;
      discard_ = true;
      return {};
    case '6':
      entry_.type = FileType::kFifo;
      return {};
    default:
      return Invalid("the entry " + Quoted(entry_.path) + " is of the unknown type " +
                     Quoted(std::string_view(&type, 1)));
  }
}

Result<> TarReader::PrepareSparse(char type) {
  if (entry_.hard_link || entry_.type != FileType::kRegular) return Deliver();
  if (type == 'S') {
    EMBERVM_TRY_ASSIGN(const std::int64_t size,
                       Number(kGnuRealSize.offset, kGnuRealSize.length, "size"));
    if (size < 0) return Invalid("an entry has a negative size");
    entry_.size = static_cast<std::uint64_t>(size);
    EMBERVM_TRY(
        AppendGnuSparse(std::span(block_).subspan(kGnuSparse.offset, kGnuSparse.length), map_));
    if (block_[kGnuIsExtended] != std::byte{}) {
      state_ = State::kSparseBlocks;
      return {};
    }
    return Deliver();
  }
  if (!pax_.is_sparse()) {
    entry_.size = stored_left_;
    map_.push_back({.offset = 0, .length = stored_left_});
    return Deliver();
  }
  entry_.size = *pax_.sparse_size;
  if (pax_.sparse_major == 1U && pax_.sparse_minor == 0U) {
    map_parser_ = SparseMapParser();
    map_bytes_ = 0;
    state_ = State::kSparseMap;
    if (stored_left_ == 0) return Invalid("the map of a sparse file is cut off");
    return {};
  }
  if (pax_.sparse_major.value_or(0) != 0) {
    return Invalid("the file " + Quoted(entry_.path) + " is sparse in an unknown way");
  }
  if (pax_.sparse_map.has_value()) map_ = std::move(*pax_.sparse_map);
  return Deliver();
}

Result<> TarReader::OnSparseBlock() {
  EMBERVM_TRY(AppendGnuSparse(std::span(block_).first(kGnuBlockIsExtended), map_));
  if (block_[kGnuBlockIsExtended] != std::byte{}) {
    if (++headers_ > limits_.max_entries) {
      return OverLimit("the archive has too many entries", limits_.max_entries);
    }
    return {};
  }
  return Deliver();
}

Result<> TarReader::Deliver() {
  if (entry_.size > limits_.max_file_bytes) {
    return OverLimit("the file " + Quoted(entry_.path) + " is too large", limits_.max_file_bytes);
  }
  if (!discard_) EMBERVM_TRY(CheckSparseMap(map_, entry_.size, stored_left_));
  // What was said about this entry says nothing about the next one.
  pax_ = PaxRecords{};
  long_name_.reset();
  long_link_.reset();
  has_extension_ = false;
  EMBERVM_TRY(sink_.Begin(std::move(entry_)));
  state_ = State::kData;
  return stored_left_ == 0 && map_padding_ == 0 ? EndEntry() : Result<>();
}

Result<std::size_t> TarReader::TakeData(std::span<const std::byte> bytes) {
  if (map_padding_ > 0) {
    const std::size_t count = std::min<std::uint64_t>(bytes.size(), map_padding_);
    map_padding_ -= count;
    if (map_padding_ == 0 && stored_left_ == 0) EMBERVM_TRY(EndEntry());
    return count;
  }
  std::size_t count = std::min<std::uint64_t>(bytes.size(), stored_left_);
  if (!discard_) {
    // The map is as long as what is stored: there is an extent for every byte.
    while (map_[extent_].length == in_extent_) {
      ++extent_;
      in_extent_ = 0;
    }
    const SparseExtent& extent = map_[extent_];
    count = std::min<std::uint64_t>(count, extent.length - in_extent_);
    EMBERVM_TRY(sink_.Data(extent.offset + in_extent_, bytes.first(count)));
    in_extent_ += count;
  }
  stored_left_ -= count;
  if (stored_left_ == 0) EMBERVM_TRY(EndEntry());
  return count;
}

Result<> TarReader::EndEntry() {
  state_ = padding_left_ > 0 ? State::kPadding : State::kHeader;
  return sink_.End();
}

Result<std::int64_t> TarReader::Number(std::size_t offset, std::size_t length,
                                       const char* what) const {
  const auto number = ParseTarNumber(std::span(block_).subspan(offset, length));
  if (!number.has_value()) {
    return Invalid(std::string("the ") + what + " of an entry is not a number");
  }
  return *number;
}

std::string TarReader::Text(std::size_t offset, std::size_t length) const {
  const std::string_view field = AsText(std::span(block_).subspan(offset, length));
  return std::string(field.substr(0, field.find('\0')));
}

}  // namespace embervm::image
