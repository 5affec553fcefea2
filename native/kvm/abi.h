// The KVM ABI as C++ must see it. Some distributions' <linux/stddef.h> puts an
// empty struct in front of every flexible array, which is one byte long in C++,
// and so changes structure sizes and with them the ioctl numbers. Include this
// header instead of <linux/kvm.h>.
#ifndef EMBERVM_KVM_ABI_H_
#define EMBERVM_KVM_ABI_H_

// Must come before <linux/kvm.h>: it defines the macro that is corrected here.
#include <linux/stddef.h>

#undef __DECLARE_FLEX_ARRAY
// NOLINTNEXTLINE(bugprone-reserved-identifier): the kernel headers own the name.
#define __DECLARE_FLEX_ARRAY(TYPE, NAME) __extension__ TYPE NAME[0]

#include <linux/kvm.h>

#include <cstddef>
#include <cstdint>

static_assert(sizeof(kvm_cpuid2) == 8);
static_assert(sizeof(kvm_msrs) == 8);
static_assert(sizeof(kvm_msr_list) == 4);
static_assert(sizeof(kvm_irq_routing) == 8);
static_assert(sizeof(kvm_signal_mask) == 4);
static_assert(sizeof(kvm_xsave) == 4096);
static_assert(sizeof(kvm_lapic_state) == 1024);
static_assert(sizeof(kvm_ioeventfd) == 64);
static_assert(sizeof(kvm_irqfd) == 32);
static_assert(sizeof(kvm_stats_desc) == 16);
static_assert(offsetof(kvm_run, io) == 32);
static_assert(KVM_GET_SUPPORTED_CPUID == 0xc008ae05);
static_assert(KVM_GET_MSR_INDEX_LIST == 0xc004ae02);
static_assert(KVM_GET_MSRS == 0xc008ae88);
static_assert(KVM_SET_MSRS == 0x4008ae89);
static_assert(KVM_SET_CPUID2 == 0x4008ae90);
static_assert(KVM_GET_XSAVE == 0x9000aea4);
static_assert(KVM_SET_XSAVE == 0x5000aea5);

namespace embervm {

// The one API version there is (Documentation/virt/kvm/api.rst §4.1).
inline constexpr int kKvmApiVersion = 12;

// Newer than the headers of the oldest distribution that this builds on.
inline constexpr int kCapUserMemory2 = 231;
inline constexpr int kCapMemoryFaultInfo = 232;
inline constexpr int kCapGuestMemfd = 234;
inline constexpr int kCapVmTypes = 235;
inline constexpr int kCapPreFaultMemory = 236;
inline constexpr std::uint32_t kExitMemoryFault = 39;

}  // namespace embervm

#endif  // EMBERVM_KVM_ABI_H_
