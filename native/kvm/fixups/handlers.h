// The instructions of the fix-up table, one function each, by what they touch.
#ifndef EMBERVM_KVM_FIXUPS_HANDLERS_H_
#define EMBERVM_KVM_FIXUPS_HANDLERS_H_

#include "kvm/fixups/context.h"

namespace embervm::fixups {

// integer.cc
Step<> Popcnt(Context& context);
Step<> Cmpxchg16b(Context& context);
Step<> Crc32(Context& context);

// system.cc
Step<> Stac(Context& context);
Step<> Clac(Context& context);
Step<> Int3(Context& context);
Step<> Rdtscp(Context& context);
Step<> Invpcid(Context& context);
Step<> Clwb(Context& context);
Step<> Nothing(Context& context);

// segment.cc
Step<> Lar(Context& context);
Step<> Lsl(Context& context);
Step<> Verr(Context& context);
Step<> Verw(Context& context);

// fpu.cc
Step<> Fwait(Context& context);
Step<> Fnclex(Context& context);
Step<> Emms(Context& context);
Step<> FnstswAx(Context& context);
Step<> Fldcw(Context& context);
Step<> Fild32(Context& context);
Step<> Ldmxcsr(Context& context);
Step<> Stmxcsr(Context& context);

// xsave.cc
Step<> Xsave(Context& context);
Step<> Xsaveopt(Context& context);
Step<> Xrstor(Context& context);
Step<> Xgetbv(Context& context);

}  // namespace embervm::fixups

#endif  // EMBERVM_KVM_FIXUPS_HANDLERS_H_
