#include "kvm/cpuid_table.h"

#include <algorithm>
#include <utility>

namespace embervm {

namespace {

bool Matches(const kvm_cpuid_entry2& entry, std::uint32_t function, std::uint32_t index) {
  const bool has_subleaves = (entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) != 0;
  return entry.function == function && (has_subleaves ? entry.index == index : index == 0);
}

}  // namespace

const kvm_cpuid_entry2* CpuidTable::Find(std::uint32_t function, std::uint32_t index) const {
  const auto entry = std::ranges::find_if(entries_, [&](const kvm_cpuid_entry2& candidate) {
    return Matches(candidate, function, index);
  });
  return entry != entries_.end() ? &*entry : nullptr;
}

kvm_cpuid_entry2* CpuidTable::Find(std::uint32_t function, std::uint32_t index) {
  const auto entry = std::ranges::find_if(entries_, [&](const kvm_cpuid_entry2& candidate) {
    return Matches(candidate, function, index);
  });
  return entry != entries_.end() ? &*entry : nullptr;
}

void CpuidTable::Insert(const kvm_cpuid_entry2& entry) {
  if (kvm_cpuid_entry2* const existing = Find(entry.function, entry.index); existing != nullptr) {
    *existing = entry;
    return;
  }
  entries_.push_back(entry);
}

void CpuidTable::Remove(std::uint32_t function) {
  std::erase_if(entries_,
                [&](const kvm_cpuid_entry2& entry) { return entry.function == function; });
}

}  // namespace embervm
