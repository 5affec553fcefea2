#include "arch/x86_64/cpuid.h"

#include <bit>

namespace embervm {

namespace {

constexpr std::uint32_t kLeafFeatures = 0x1;
constexpr std::uint32_t kLeafCache = 0x4;
constexpr std::uint32_t kLeafPerformance = 0xa;
constexpr std::uint32_t kLeafTopology = 0xb;
constexpr std::uint32_t kLeafTopologyV2 = 0x1f;
constexpr std::uint32_t kLeafKvmFeatures = 0x40000001;
constexpr std::uint32_t kLeafAmdFeatures = 0x80000001;
constexpr std::uint32_t kLeafAmdSize = 0x80000008;
constexpr std::uint32_t kLeafAmdTopology = 0x8000001e;

// Leaf 1.
constexpr std::uint32_t kEbxClflushMask = 0x0000ff00;
constexpr std::uint32_t kEbxClflush64Bytes = 8U << 8U;
constexpr unsigned kEbxMaxIdsShift = 16;
constexpr unsigned kEbxApicIdShift = 24;
constexpr std::uint32_t kEbxIdsMask = 0x00ff0000;
constexpr std::uint32_t kEbxApicIdMask = 0xff000000;
constexpr std::uint32_t kEcxPdcm = 1U << 15U;
constexpr std::uint32_t kEcxTscDeadline = 1U << 24U;
constexpr std::uint32_t kEcxHypervisor = 1U << 31U;
constexpr std::uint32_t kEdxHtt = 1U << 28U;

constexpr std::uint32_t kAmdTopologyExtensions = 1U << 22U;

// Leaves 0xb and 0x1f: level types.
constexpr std::uint32_t kLevelThread = 1;
constexpr std::uint32_t kLevelCore = 2;
constexpr unsigned kLevelTypeShift = 8;

void SetFeatures(CpuidTable& table, std::uint32_t index, std::uint32_t count) {
  kvm_cpuid_entry2* const leaf = table.Find(kLeafFeatures);
  if (leaf == nullptr) return;
  leaf->ebx &= ~(kEbxClflushMask | kEbxIdsMask | kEbxApicIdMask);
  leaf->ebx |=
      kEbxClflush64Bytes | std::bit_ceil(count) << kEbxMaxIdsShift | index << kEbxApicIdShift;
  leaf->ecx &= ~kEcxPdcm;
  leaf->ecx |= kEcxTscDeadline | kEcxHypervisor;
  leaf->edx = count > 1 ? leaf->edx | kEdxHtt : leaf->edx & ~kEdxHtt;
}

// One thread per core, all cores in one package.
void SetTopology(CpuidTable& table, std::uint32_t leaf, std::uint32_t index, std::uint32_t count) {
  if (table.Find(leaf) == nullptr) return;
  table.Remove(leaf);
  const auto core_bits = static_cast<std::uint32_t>(std::bit_width(count - 1));
  const auto insert = [&](std::uint32_t level, std::uint32_t shift, std::uint32_t processors,
                          std::uint32_t type) {
    kvm_cpuid_entry2 entry{};
    entry.function = leaf;
    entry.index = level;
    entry.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
    entry.eax = shift;
    entry.ebx = processors;
    entry.ecx = level | type << kLevelTypeShift;
    entry.edx = index;
    table.Insert(entry);
  };
  insert(0, 0, 1, kLevelThread);
  insert(1, core_bits, count, kLevelCore);
  insert(2, 0, 0, 0);
}

// Intel's deterministic cache parameters: how many ids share each cache.
void SetCacheSharing(CpuidTable& table, std::uint32_t count) {
  constexpr std::uint32_t kTypeMask = 0x1f;
  constexpr std::uint32_t kMaxSubleaves = 8;
  constexpr unsigned kSharingShift = 14;
  constexpr std::uint32_t kSharingMask = 0xfffU << kSharingShift;
  constexpr unsigned kCoresShift = 26;
  constexpr std::uint32_t kCoresMask = 0x3fU << kCoresShift;
  for (std::uint32_t subleaf = 0; subleaf < kMaxSubleaves; ++subleaf) {
    kvm_cpuid_entry2* const entry = table.Find(kLeafCache, subleaf);
    if (entry == nullptr || (entry->eax & kTypeMask) == 0) break;
    entry->eax &= ~(kSharingMask | kCoresMask);
    entry->eax |= (std::bit_ceil(count) - 1) << kCoresShift & kCoresMask;
  }
}

// "AuthenticAMD" and "HygonGenuine" by their first four letters.
bool IsAmd(const CpuidTable& table) {
  constexpr std::uint32_t kAuth = 0x68747541;
  constexpr std::uint32_t kHygo = 0x6f677948;
  const kvm_cpuid_entry2* const vendor = table.Find(0);
  return vendor != nullptr && (vendor->ebx == kAuth || vendor->ebx == kHygo);
}

void SetAmdTopology(CpuidTable& table, std::uint32_t index, std::uint32_t count) {
  if (!IsAmd(table)) return;
  if (kvm_cpuid_entry2* const size = table.Find(kLeafAmdSize); size != nullptr) {
    constexpr std::uint32_t kCountsMask = 0xf0ff;
    constexpr unsigned kIdBitsShift = 12;
    const auto bits = static_cast<std::uint32_t>(std::bit_width(count - 1));
    size->ecx = (size->ecx & ~kCountsMask) | (count - 1) | bits << kIdBitsShift;
  }
  const kvm_cpuid_entry2* const features = table.Find(kLeafAmdFeatures);
  if (features == nullptr || (features->ecx & kAmdTopologyExtensions) == 0) return;
  if (kvm_cpuid_entry2* const topology = table.Find(kLeafAmdTopology); topology != nullptr) {
    topology->eax = index;
    topology->ebx = index;  // Core id; one thread per core.
    topology->ecx = 0;      // Node 0 of one.
  }
}

}  // namespace

CpuidTable BuildCpuid(const CpuidTable& supported, std::uint32_t index, std::uint32_t count,
                      HostKind host_kind) {
  CpuidTable table = supported;
  SetFeatures(table, index, count);
  SetTopology(table, kLeafTopology, index, count);
  SetTopology(table, kLeafTopologyV2, index, count);
  SetCacheSharing(table, count);
  SetAmdTopology(table, index, count);
  // No performance counters: they are the host's.
  if (kvm_cpuid_entry2* const counters = table.Find(kLeafPerformance); counters != nullptr) {
    counters->eax = counters->ebx = counters->ecx = counters->edx = 0;
  }
  if (kvm_cpuid_entry2* const features = table.Find(kLeafKvmFeatures); features != nullptr) {
    features->eax &= ParavirtualFeatureMask(host_kind);
  }
  return table;
}

}  // namespace embervm
