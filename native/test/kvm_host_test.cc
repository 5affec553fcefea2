// Opening the host's KVM, and what is known before there is a machine.
#include <doctest/doctest.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <filesystem>
#include <optional>
#include <string>
#include <thread>

#include "kvm/cpuid_table.h"
#include "kvm/host_kind.h"
#include "kvm/kvm.h"
#include "test/kvm_micro_guest.h"
#include "test/support/temp_file.h"

namespace embervm::test {
namespace {

TEST_CASE("a KVM device that cannot be used: the error says why and what to do") {
  const TempFile file(0);
  SUBCASE("absent") {
    const std::string path = file.directory() + "/absent";
    const auto kvm = Kvm::Open(path);
    REQUIRE(!kvm.has_value());
    CHECK(kvm.error().code() == "ERR_KVM_UNAVAILABLE");
    CHECK(kvm.error().errno_value() == ENOENT);
    CHECK(kvm.error().message().find(path) != std::string::npos);
    CHECK(kvm.error().message().find("module") != std::string::npos);
  }
  SUBCASE("a directory") {
    CHECK(Kvm::Open(file.directory()).error().code() == "ERR_KVM_UNAVAILABLE");
  }
  SUBCASE("a regular file") {
    const auto kvm = Kvm::Open(file.path());
    REQUIRE(!kvm.has_value());
    CHECK(kvm.error().code() == "ERR_KVM_API_VERSION");
    CHECK(kvm.error().message().find("not a KVM device") != std::string::npos);
  }
  SUBCASE("another device") {
    CHECK(Kvm::Open("/dev/null").error().code() == "ERR_KVM_API_VERSION");
  }
  SUBCASE("unreadable") {
    REQUIRE(::chmod(file.path().c_str(), 0) == 0);
    std::optional<Error> error;
    // Credentials belong to a thread as far as the kernel is concerned, so this
    // one becomes nobody and the rest of the process does not.
    std::thread nobody([&] {
      constexpr long kNobody = 65534;
      if (::geteuid() == 0) ::syscall(SYS_setresuid, -1, kNobody, -1);
      error = Kvm::Open(file.path()).error();
    });
    nobody.join();
    REQUIRE(error.has_value());
    CHECK(error->code() == "ERR_KVM_ACCESS");
    CHECK(error->errno_value() == EACCES);
    CHECK(error->message().find("group") != std::string::npos);
  }
}

TEST_CASE("a KVM device that can") {
  if (!HaveKvm()) return;
  const auto kvm = Kvm::Open();
  REQUIRE(kvm.has_value());
  CHECK(kvm->api_version() == 12);
  CHECK(kvm->vcpu_mmap_size() >= sizeof(kvm_run));
  CHECK(kvm->max_vcpus() >= 1);
  CHECK(kvm->Capability(KVM_CAP_USER_MEMORY) > 0);
  CHECK(kvm->Capability(1'000'000) == 0);
  const auto cpuid = kvm->SupportedCpuid();
  REQUIRE(cpuid.has_value());
  CHECK(cpuid->Find(0) != nullptr);
  CHECK(cpuid->Find(1) != nullptr);
  CHECK(cpuid->Find(0x12345678) == nullptr);
  const auto msrs = kvm->MsrIndexList();
  REQUIRE(msrs.has_value());
  CHECK(!msrs->empty());
}

TEST_CASE("the host kind and what follows from it") {
  const TempFile file(0);
  CHECK(DetectHostKind(file.directory()) == HostKind::kPvm);
  CHECK(DetectHostKind(file.directory() + "/absent") == HostKind::kHardware);
  CHECK(GuestCommandLine(HostKind::kHardware).empty());
  const std::string_view pvm = GuestCommandLine(HostKind::kPvm);
  CHECK(pvm.starts_with("clearcpuid="));
  CHECK(pvm.find("smap") != std::string_view::npos);
  // Would corrupt the AVX registers of guest programs.
  CHECK(pvm.find("noxsave") == std::string_view::npos);
  CHECK(ParavirtualFeatureMask(HostKind::kHardware) == 0xffffffff);
  // PV_UNHALT, PV_TLB_FLUSH, PV_SEND_IPI, PV_SCHED_YIELD.
  for (const unsigned bit : {7U, 9U, 11U, 13U}) {
    CHECK((ParavirtualFeatureMask(HostKind::kPvm) & (1U << bit)) == 0);
  }
  CHECK((ParavirtualFeatureMask(HostKind::kPvm) & (1U << 3U)) != 0);  // CLOCKSOURCE2
  CHECK(!NeedsEmulationFixups(HostKind::kHardware));
  CHECK(NeedsEmulationFixups(HostKind::kPvm));
  CHECK(HostKindName(HostKind::kPvm) == "pvm");
}

TEST_CASE("CpuidTable") {
  CpuidTable table;
  kvm_cpuid_entry2 entry{};
  entry.function = 4;
  entry.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
  for (std::uint32_t index = 0; index < 3; ++index) {
    entry.index = index;
    entry.eax = 10 + index;
    table.Insert(entry);
  }
  CHECK(table.Find(4)->eax == 10);
  CHECK(table.Find(4, 2)->eax == 12);
  CHECK(table.Find(4, 3) == nullptr);
  entry.index = 2;
  entry.eax = 99;
  table.Insert(entry);
  CHECK(table.entries().size() == 3);
  CHECK(table.Find(4, 2)->eax == 99);
  table.Remove(4);
  CHECK(table.entries().empty());
}

}  // namespace
}  // namespace embervm::test
