#include "arch/x86_64/mptable.h"

#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "arch/x86_64/layout.h"
#include "base/bytes.h"

namespace embervm {

namespace {

// MP specification chapter 4. All structures are naturally aligned as they are.
struct FloatingPointer {
  std::array<char, 4> signature;
  std::uint32_t config_addr;
  std::uint8_t length;  // In units of 16 bytes.
  std::uint8_t revision;
  std::uint8_t checksum;
  std::array<std::uint8_t, 5> features;
};
static_assert(sizeof(FloatingPointer) == 16);

struct ConfigHeader {
  std::array<char, 4> signature;
  std::uint16_t length;
  std::uint8_t revision;
  std::uint8_t checksum;
  std::array<char, 8> oem;
  std::array<char, 12> product;
  std::uint32_t oem_table;
  std::uint16_t oem_table_size;
  std::uint16_t entries;
  std::uint32_t local_apic;
  std::uint16_t extended_length;
  std::uint8_t extended_checksum;
  std::uint8_t reserved;
};
static_assert(sizeof(ConfigHeader) == 44);

enum class EntryType : std::uint8_t {
  kProcessor = 0,
  kBus = 1,
  kIoApic = 2,
  kInterrupt = 3,
  kLocalInterrupt = 4
};

struct Processor {
  EntryType type;
  std::uint8_t apic_id;
  std::uint8_t apic_version;
  std::uint8_t flags;
  std::uint32_t signature;
  std::uint32_t features;
  std::array<std::uint32_t, 2> reserved;
};
static_assert(sizeof(Processor) == 20);

struct Bus {
  EntryType type;
  std::uint8_t id;
  std::array<char, 6> name;
};
static_assert(sizeof(Bus) == 8);

struct IoApic {
  EntryType type;
  std::uint8_t id;
  std::uint8_t version;
  std::uint8_t flags;
  std::uint32_t addr;
};
static_assert(sizeof(IoApic) == 8);

// Of an IOAPIC pin or, with the other type, of a local APIC's LINT pin.
struct Interrupt {
  EntryType type;
  std::uint8_t interrupt_type;
  std::uint16_t flags;
  std::uint8_t source_bus;
  std::uint8_t source_irq;
  std::uint8_t destination_apic;
  std::uint8_t destination_pin;
};
static_assert(sizeof(Interrupt) == 8);

constexpr std::uint8_t kRevision14 = 4;
constexpr std::uint8_t kApicVersion = 0x14;
constexpr std::uint8_t kCpuEnabled = 1U << 0U;
constexpr std::uint8_t kCpuBoot = 1U << 1U;
constexpr std::uint32_t kCpuSignature = 0x600;
// FPU and APIC; the kernel asks CPUID for the rest.
constexpr std::uint32_t kCpuFeatures = 0x201;
constexpr std::uint8_t kIsaBus = 0;
constexpr std::uint8_t kIoApicEnabled = 1;
constexpr std::uint8_t kVectored = 0;
constexpr std::uint8_t kNmi = 1;
constexpr std::uint8_t kExtInt = 3;
constexpr std::uint8_t kAllApics = 0xff;

std::uint8_t Checksum(std::span<const std::byte> bytes) {
  unsigned sum = 0;
  for (const std::byte byte : bytes) sum += std::to_integer<unsigned>(byte);
  return static_cast<std::uint8_t>(0U - sum);
}

class Table {
 public:
  Table() : bytes_(sizeof(ConfigHeader)) {}

  template <class Entry>
  void Add(const Entry& entry) {
    const auto bytes = AsBytes(entry);
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    ++entries_;
  }

  std::span<const std::byte> Finish() {
    ConfigHeader header{};
    header.signature = {'P', 'C', 'M', 'P'};
    header.length = static_cast<std::uint16_t>(bytes_.size());
    header.revision = kRevision14;
    header.oem = {'E', 'M', 'B', 'E', 'R', 'V', 'M', ' '};
    header.product = {'M', 'I', 'C', 'R', 'O', 'V', 'M', ' ', ' ', ' ', ' ', ' '};
    header.entries = entries_;
    header.local_apic = static_cast<std::uint32_t>(layout::kLocalApic);
    StoreLe(bytes_, 0, header);
    header.checksum = Checksum(bytes_);
    StoreLe(bytes_, 0, header);
    return bytes_;
  }

 private:
  std::vector<std::byte> bytes_;
  std::uint16_t entries_ = 0;
};

Table Entries(std::uint32_t cpus) {
  Table table;
  for (std::uint32_t cpu = 0; cpu < cpus; ++cpu) {
    table.Add(
        Processor{.type = EntryType::kProcessor,
                  .apic_id = static_cast<std::uint8_t>(cpu),
                  .apic_version = kApicVersion,
                  .flags = static_cast<std::uint8_t>(kCpuEnabled | (cpu == 0 ? kCpuBoot : 0U)),
                  .signature = kCpuSignature,
                  .features = kCpuFeatures,
                  .reserved = {}});
  }
  table.Add(Bus{.type = EntryType::kBus, .id = kIsaBus, .name = {'I', 'S', 'A', ' ', ' ', ' '}});
  const auto io_apic_id = static_cast<std::uint8_t>(cpus);
  table.Add(IoApic{.type = EntryType::kIoApic,
                   .id = io_apic_id,
                   .version = kApicVersion,
                   .flags = kIoApicEnabled,
                   .addr = static_cast<std::uint32_t>(layout::kIoApic)});
  for (std::uint32_t pin = 0; pin < layout::kIoApicPins; ++pin) {
    // Flags 0: as the bus has it, which for ISA is edge-triggered, active high.
    table.Add(Interrupt{.type = EntryType::kInterrupt,
                        .interrupt_type = kVectored,
                        .flags = 0,
                        .source_bus = kIsaBus,
                        .source_irq = static_cast<std::uint8_t>(pin),
                        .destination_apic = io_apic_id,
                        .destination_pin = static_cast<std::uint8_t>(pin)});
  }
  table.Add(Interrupt{.type = EntryType::kLocalInterrupt,
                      .interrupt_type = kExtInt,
                      .flags = 0,
                      .source_bus = kIsaBus,
                      .source_irq = 0,
                      .destination_apic = 0,
                      .destination_pin = 0});
  table.Add(Interrupt{.type = EntryType::kLocalInterrupt,
                      .interrupt_type = kNmi,
                      .flags = 0,
                      .source_bus = kIsaBus,
                      .source_irq = 0,
                      .destination_apic = kAllApics,
                      .destination_pin = 1});
  return table;
}

}  // namespace

Result<> WriteMpTable(const GuestMemory& memory, std::uint32_t cpus) {
  if (cpus == 0 || cpus > layout::kMaxVcpus) {
    return std::unexpected(Error("ERR_INVALID_CONFIG", "a machine has 1 to " +
                                                           std::to_string(layout::kMaxVcpus) +
                                                           " vCPUs, not " + std::to_string(cpus))
                               .With("vcpus", cpus));
  }
  Table table = Entries(cpus);
  const std::span<const std::byte> config = table.Finish();
  if (sizeof(FloatingPointer) + config.size() > layout::kMpTableSize) {
    return std::unexpected(Error("ERR_INTERNAL", "the MP table is too large for its place"));
  }
  FloatingPointer pointer{};
  pointer.signature = {'_', 'M', 'P', '_'};
  pointer.config_addr = static_cast<std::uint32_t>(layout::kMpTable + sizeof(pointer));
  pointer.length = 1;
  pointer.revision = kRevision14;
  pointer.checksum = Checksum(AsBytes(pointer));
  EMBERVM_TRY(memory.Write(layout::kMpTable, AsBytes(pointer)));
  return memory.Write(layout::kMpTable + sizeof(pointer), config);
}

}  // namespace embervm
