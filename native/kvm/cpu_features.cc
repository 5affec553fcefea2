#include "kvm/cpu_features.h"

#include <cpuid.h>

#include <algorithm>
#include <array>
#include <string_view>

namespace embervm {

namespace {

enum Register : std::uint32_t { kEax, kEbx, kEcx, kEdx, kRegisters };
constexpr std::array<std::string_view, kRegisters> kRegisterNames{"eax", "ebx", "ecx", "edx"};
constexpr unsigned kBitsPerWord = 32;
constexpr std::size_t kVendorBytes = 12;
constexpr std::size_t kMaxWords = 64;

struct FeatureWord {
  std::uint32_t function;
  std::uint32_t index;
  std::uint32_t reg;
  // Bits that mirror what an operating system has set up, not what the CPU can do.
  std::uint32_t not_features;
};

constexpr std::uint32_t kOsxsave = 1U << 27U;
constexpr std::uint32_t kOspke = 1U << 4U;

constexpr std::array kFeatureWords{
    FeatureWord{0x1, 0, kEcx, kOsxsave}, FeatureWord{0x1, 0, kEdx, 0},
    FeatureWord{0x7, 0, kEbx, 0},        FeatureWord{0x7, 0, kEcx, kOspke},
    FeatureWord{0x7, 0, kEdx, 0},        FeatureWord{0x7, 1, kEax, 0},
    FeatureWord{0xd, 1, kEax, 0},        FeatureWord{0x40000001, 0, kEax, 0},
    FeatureWord{0x80000001, 0, kEcx, 0}, FeatureWord{0x80000001, 0, kEdx, 0},
    FeatureWord{0x80000008, 0, kEbx, 0}, FeatureWord{0x80000021, 0, kEax, 0},
};

struct FeatureName {
  std::uint32_t function;
  std::uint32_t reg;
  unsigned bit;
  std::string_view name;
};

// Those that people ask for by name.
constexpr std::array kFeatureNames{
    FeatureName{0x1, kEcx, 12, "fma"},         FeatureName{0x1, kEcx, 13, "cx16"},
    FeatureName{0x1, kEcx, 19, "sse4_1"},      FeatureName{0x1, kEcx, 20, "sse4_2"},
    FeatureName{0x1, kEcx, 21, "x2apic"},      FeatureName{0x1, kEcx, 22, "movbe"},
    FeatureName{0x1, kEcx, 23, "popcnt"},      FeatureName{0x1, kEcx, 25, "aes"},
    FeatureName{0x1, kEcx, 26, "xsave"},       FeatureName{0x1, kEcx, 28, "avx"},
    FeatureName{0x1, kEcx, 29, "f16c"},        FeatureName{0x1, kEcx, 30, "rdrand"},
    FeatureName{0x7, kEbx, 3, "bmi1"},         FeatureName{0x7, kEbx, 5, "avx2"},
    FeatureName{0x7, kEbx, 8, "bmi2"},         FeatureName{0x7, kEbx, 9, "erms"},
    FeatureName{0x7, kEbx, 16, "avx512f"},     FeatureName{0x7, kEbx, 18, "rdseed"},
    FeatureName{0x7, kEbx, 19, "adx"},         FeatureName{0x7, kEbx, 29, "sha_ni"},
    FeatureName{0x7, kEbx, 30, "avx512bw"},    FeatureName{0x7, kEbx, 31, "avx512vl"},
    FeatureName{0x7, kEcx, 9, "vaes"},         FeatureName{0x7, kEcx, 11, "avx512_vnni"},
    FeatureName{0x7, kEdx, 4, "fsrm"},         FeatureName{0x7, kEdx, 24, "amx_tile"},
    FeatureName{0xd, kEax, 0, "xsaveopt"},     FeatureName{0xd, kEax, 1, "xsavec"},
    FeatureName{0xd, kEax, 3, "xsaves"},       FeatureName{0x80000001, kEcx, 5, "abm"},
    FeatureName{0x80000001, kEcx, 6, "sse4a"}, FeatureName{0x80000001, kEdx, 27, "rdtscp"},
};

using Registers = std::array<std::uint32_t, kRegisters>;

Registers OfTable(const CpuidTable& table, std::uint32_t function, std::uint32_t index) {
  const kvm_cpuid_entry2* const entry = table.Find(function, index);
  if (entry == nullptr) return {};
  return {entry->eax, entry->ebx, entry->ecx, entry->edx};
}

Registers OfCpu(std::uint32_t function, std::uint32_t index) {
  Registers found{};
  // False for a leaf past the last one, whose registers would be another leaf's.
  static_cast<void>(
      __get_cpuid_count(function, index, &found[kEax], &found[kEbx], &found[kEcx], &found[kEdx]));
  return found;
}

}  // namespace

CpuFeatures CpuFeatures::OfHost(const CpuidTable& supported, HostKind host_kind) {
  CpuFeatures features;
  features.host_kind_ = host_kind;
  const bool unmasked = GuestSeesHostCpuid(host_kind);
  const Registers vendor = unmasked ? OfCpu(0, 0) : OfTable(supported, 0, 0);
  for (const Register part : {kEbx, kEdx, kEcx}) {
    for (unsigned byte = 0; byte < sizeof(std::uint32_t); ++byte) {
      features.vendor_.push_back(static_cast<char>(vendor.at(part) >> (byte * 8U)));
    }
  }
  for (const FeatureWord& word : kFeatureWords) {
    std::uint32_t bits = OfTable(supported, word.function, word.index).at(word.reg);
    if (unmasked) bits |= OfCpu(word.function, word.index).at(word.reg);
    bits &= ~word.not_features;
    features.words_.push_back(
        {.function = word.function, .index = word.index, .reg = word.reg, .bits = bits});
  }
  return features;
}

Result<CpuFeatures> CpuFeatures::Read(StateReader& reader) {
  CpuFeatures features;
  const std::string kind = reader.Text(kVendorBytes);
  const auto host_kind = HostKindFromName(kind);
  if (!host_kind.has_value()) reader.Fail();
  features.host_kind_ = host_kind.value_or(HostKind::kHardware);
  features.vendor_ = reader.Text(kVendorBytes);
  features.words_ = reader.List<Word>(kMaxWords);
  for (const Word& word : features.words_) {
    if (word.reg >= kRegisters) reader.Fail();
  }
  if (!reader.ok()) return std::unexpected(InvalidState("the CPU's features"));
  return features;
}

void CpuFeatures::Write(StateWriter& writer) const {
  writer.Text(HostKindName(host_kind_));
  writer.Text(vendor_);
  writer.List(std::span<const Word>(words_));
}

std::string CpuFeatures::NameOf(const Word& word, unsigned bit) {
  const auto known = std::ranges::find_if(kFeatureNames, [&](const FeatureName& name) {
    return name.function == word.function && name.reg == word.reg && name.bit == bit &&
           word.index == (word.function == 0xd ? 1U : 0U);
  });
  if (known != kFeatureNames.end()) return std::string(known->name);
  return "cpuid." + std::to_string(word.function) + "." + std::to_string(word.index) + ":" +
         std::string(kRegisterNames.at(word.reg)) + "." + std::to_string(bit);
}

Result<> CpuFeatures::RequireFrom(const CpuFeatures& host) const {
  if (host_kind_ != host.host_kind_) {
    return std::unexpected(
        Error("ERR_SNAPSHOT_HOST",
              "the snapshot was taken on another kind of host (see context): what a guest may use "
              "differs between them")
            .With("snapshotHost", std::string(HostKindName(host_kind_)))
            .With("host", std::string(HostKindName(host.host_kind_))));
  }
  if (vendor_ != host.vendor_) {
    return std::unexpected(
        Error("ERR_SNAPSHOT_HOST", "the snapshot was taken on a CPU of another maker")
            .With("snapshotVendor", vendor_)
            .With("vendor", host.vendor_));
  }
  std::string missing;
  for (const Word& word : words_) {
    const auto same = std::ranges::find_if(host.words_, [&](const Word& other) {
      return other.function == word.function && other.index == word.index && other.reg == word.reg;
    });
    const std::uint32_t lacking = word.bits & ~(same != host.words_.end() ? same->bits : 0U);
    for (unsigned bit = 0; bit < kBitsPerWord; ++bit) {
      if ((lacking >> bit & 1U) == 0) continue;
      if (!missing.empty()) missing += ",";
      missing += NameOf(word, bit);
    }
  }
  if (missing.empty()) return {};
  return std::unexpected(
      Error("ERR_SNAPSHOT_HOST", "this host's CPU lacks features of the snapshot's: " + missing)
          .With("missing", missing));
}

}  // namespace embervm
