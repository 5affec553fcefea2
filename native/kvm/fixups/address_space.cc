#include "kvm/fixups/address_space.h"

#include <algorithm>
#include <array>
#include <atomic>

namespace embervm::fixups {

namespace {

constexpr std::uint64_t kPageSize = 4096;
constexpr unsigned kPageShift = 12;
constexpr unsigned kIndexBits = 9;
constexpr std::uint64_t kIndexMask = 0x1ff;

// SDM volume 3 §4.5, tables 4-14 to 4-20.
constexpr std::uint64_t kPresent = 1U << 0U;
constexpr std::uint64_t kWritable = 1U << 1U;
constexpr std::uint64_t kUser = 1U << 2U;
constexpr std::uint64_t kAccessed = 1U << 5U;
constexpr std::uint64_t kDirty = 1U << 6U;
constexpr std::uint64_t kLargePage = 1U << 7U;
constexpr std::uint64_t kNoExecute = std::uint64_t{1} << 63U;
constexpr std::uint64_t kAddressMask = 0x000f'ffff'ffff'f000;

constexpr std::uint64_t kCr0Wp = 1U << 16U;
constexpr std::uint64_t kCr4La57 = 1U << 12U;
constexpr std::uint64_t kCr4Smep = 1U << 20U;
constexpr std::uint64_t kCr4Smap = 1U << 21U;
constexpr std::uint64_t kEferNxe = 1U << 11U;
constexpr std::uint64_t kRflagsAc = 1U << 18U;

// Page-fault error code, SDM volume 3 §4.7.
constexpr std::uint32_t kErrorPresent = 1U << 0U;
constexpr std::uint32_t kErrorWrite = 1U << 1U;
constexpr std::uint32_t kErrorReserved = 1U << 3U;
constexpr std::uint32_t kErrorFetch = 1U << 4U;

Stop NotRam(GuestAddr addr, std::string_view what) {
  return Stop(Error("ERR_EMULATION_FAILURE", std::string(what) + " is outside guest memory")
                  .With("address", static_cast<std::int64_t>(addr)));
}

}  // namespace

struct AddressSpace::Walk {
  std::uint64_t linear = 0;
  Access access = Access::kRead;
  // Of all levels: the AND of writable and user, the OR of no-execute.
  std::uint64_t rights = kWritable | kUser;
  bool no_execute = false;
};

bool AddressSpace::IsCanonical(std::uint64_t linear) const {
  const unsigned unused_bits = (sregs_.cr4 & kCr4La57) != 0 ? 64 - 57 : 64 - 48;
  const auto extended = static_cast<std::int64_t>(linear << unused_bits) >> unused_bits;
  return static_cast<std::uint64_t>(extended) == linear;
}

Stop AddressSpace::PageFaultAt(std::uint64_t linear, Access access, bool present,
                               bool reserved) const {
  std::uint32_t error_code = present ? kErrorPresent : 0;
  if (access == Access::kWrite) error_code |= kErrorWrite;
  if (reserved) error_code |= kErrorReserved;
  // The fetch bit is defined only where fetches are checked.
  const bool fetches_checked = (sregs_.efer & kEferNxe) != 0 || (sregs_.cr4 & kCr4Smep) != 0;
  if (access == Access::kFetch && fetches_checked) error_code |= kErrorFetch;
  return Stop(Fault{kPageFault, error_code, linear});
}

// SDM volume 3 §4.6.1, for supervisor-mode accesses.
Step<> AddressSpace::CheckLeaf(const Walk& walk) const {
  const bool user_page = (walk.rights & kUser) != 0;
  bool allowed = true;
  switch (walk.access) {
    case Access::kWrite:
      allowed = (walk.rights & kWritable) != 0 || (sregs_.cr0 & kCr0Wp) == 0;
      [[fallthrough]];
    case Access::kRead:
      if (user_page && (sregs_.cr4 & kCr4Smap) != 0 && (rflags_ & kRflagsAc) == 0) {
        allowed = false;
      }
      break;
    case Access::kFetch:
      allowed = !(walk.no_execute && (sregs_.efer & kEferNxe) != 0) &&
                !(user_page && (sregs_.cr4 & kCr4Smep) != 0);
      break;
  }
  if (!allowed) return std::unexpected(PageFaultAt(walk.linear, walk.access, true));
  return {};
}

Step<GuestAddr> AddressSpace::Translate(std::uint64_t linear, Access access) const {
  const unsigned levels = (sregs_.cr4 & kCr4La57) != 0 ? 5 : 4;
  Walk walk{.linear = linear, .access = access};
  std::uint64_t table = sregs_.cr3 & kAddressMask;
  for (unsigned level = levels; level > 0; --level) {
    const unsigned shift = kPageShift + kIndexBits * (level - 1);
    const GuestAddr entry_addr = table + ((linear >> shift) & kIndexMask) * sizeof(std::uint64_t);
    const auto slice = memory_.Slice(entry_addr, sizeof(std::uint64_t));
    if (!slice) return std::unexpected(NotRam(entry_addr, "a page table"));
    // Guest RAM is page aligned in the host, so the entry is aligned too. Other
    // vCPUs may change it at any time: it is read once.
    const std::atomic_ref entry_ref(*reinterpret_cast<std::uint64_t*>(slice->data()));
    const std::uint64_t entry = entry_ref.load(std::memory_order_acquire);
    if ((entry & kPresent) == 0) return std::unexpected(PageFaultAt(linear, access, false));
    const bool large = level > 1 && (entry & kLargePage) != 0;
    // No processor has 512 GiB pages; the bit is reserved there.
    constexpr unsigned kLargestPageLevel = 3;
    if ((large && level > kLargestPageLevel) ||
        ((entry & kNoExecute) != 0 && (sregs_.efer & kEferNxe) == 0)) {
      return std::unexpected(PageFaultAt(linear, access, true, true));
    }
    walk.rights &= entry;
    walk.no_execute = walk.no_execute || (entry & kNoExecute) != 0;
    const bool leaf = level == 1 || large;
    if (leaf) {
      if (auto checked = CheckLeaf(walk); !checked)
        return std::unexpected(std::move(checked).error());
    }
    const std::uint64_t used =
        kAccessed | (leaf && access == Access::kWrite ? kDirty : std::uint64_t{0});
    if ((entry & used) != used) entry_ref.fetch_or(used, std::memory_order_acq_rel);
    if (leaf) {
      const std::uint64_t offset_mask = (std::uint64_t{1} << shift) - 1;
      return (entry & kAddressMask & ~offset_mask) | (linear & offset_mask);
    }
    table = entry & kAddressMask;
  }
  return std::unexpected(PageFaultAt(linear, access, false));
}

Step<std::vector<std::span<std::byte>>> AddressSpace::Map(std::uint64_t linear, std::size_t length,
                                                          Access access) const {
  std::vector<std::span<std::byte>> pieces;
  while (length > 0) {
    if (!IsCanonical(linear))
      return std::unexpected(Stop(Fault{kGeneralProtection, 0, std::nullopt}));
    auto addr = Translate(linear, access);
    if (!addr) return std::unexpected(std::move(addr).error());
    const std::size_t in_page =
        std::min(length, static_cast<std::size_t>(kPageSize - linear % kPageSize));
    const auto slice = memory_.Slice(*addr, in_page);
    if (!slice) return std::unexpected(NotRam(*addr, "an operand"));
    pieces.push_back(*slice);
    linear += in_page;
    length -= in_page;
  }
  return pieces;
}

Step<> AddressSpace::Read(std::uint64_t linear, std::span<std::byte> bytes) const {
  auto pieces = Map(linear, bytes.size(), Access::kRead);
  if (!pieces) return std::unexpected(std::move(pieces).error());
  for (const auto& piece : *pieces) {
    std::ranges::copy(piece, bytes.begin());
    bytes = bytes.subspan(piece.size());
  }
  return {};
}

Step<> AddressSpace::Write(std::uint64_t linear, std::span<const std::byte> bytes) const {
  auto pieces = Map(linear, bytes.size(), Access::kWrite);
  if (!pieces) return std::unexpected(std::move(pieces).error());
  for (const auto& piece : *pieces) {
    std::ranges::copy(bytes.first(piece.size()), piece.begin());
    bytes = bytes.subspan(piece.size());
  }
  return {};
}

std::size_t AddressSpace::Fetch(std::uint64_t linear, std::span<std::byte> bytes) const {
  std::size_t done = 0;
  while (done < bytes.size()) {
    const std::uint64_t at = linear + done;
    const std::size_t in_page =
        std::min(bytes.size() - done, static_cast<std::size_t>(kPageSize - at % kPageSize));
    const auto piece = Map(at, in_page, Access::kFetch);
    if (!piece) break;
    std::ranges::copy(piece->front(), bytes.subspan(done).begin());
    done += in_page;
  }
  return done;
}

}  // namespace embervm::fixups
