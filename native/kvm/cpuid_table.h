// CpuidTable: the CPUID leaves of KVM_GET_SUPPORTED_CPUID and KVM_SET_CPUID2.
#ifndef EMBERVM_KVM_CPUID_TABLE_H_
#define EMBERVM_KVM_CPUID_TABLE_H_

#include <cstdint>
#include <vector>

#include "kvm/abi.h"

namespace embervm {

class CpuidTable {
 public:
  CpuidTable() = default;
  explicit CpuidTable(std::vector<kvm_cpuid_entry2> entries) : entries_(std::move(entries)) {}

  [[nodiscard]] const std::vector<kvm_cpuid_entry2>& entries() const { return entries_; }

  // Null when there is no such leaf. Subleaf 0 also finds leaves without
  // subleaves. Valid until the next Insert().
  kvm_cpuid_entry2* Find(std::uint32_t function, std::uint32_t index = 0);
  [[nodiscard]] const kvm_cpuid_entry2* Find(std::uint32_t function, std::uint32_t index = 0) const;

  // Replaces the entry with the same leaf and subleaf, or adds it.
  void Insert(const kvm_cpuid_entry2& entry);
  // Drops every subleaf of `function`.
  void Remove(std::uint32_t function);

 private:
  std::vector<kvm_cpuid_entry2> entries_;
};

}  // namespace embervm

#endif  // EMBERVM_KVM_CPUID_TABLE_H_
