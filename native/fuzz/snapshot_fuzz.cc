// State files of any content: the envelope, what is inside, the states of vCPUs and
// of the VM, and a device that goes on from a state that nobody wrote.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/event_loop.h"
#include "base/state_stream.h"
#include "devices/rng/device.h"
#include "fuzz/device_harness.h"
#include "kvm/state.h"
#include "machine/snapshot.h"
#include "test/support/mmio_slot.h"

namespace embervm::fuzz {
namespace {

void RestoreDevice(std::span<const std::byte> bytes) {
  static const std::unique_ptr<EventLoop> loop = EventLoop::Create().value();
  devices::RngDevice device;
  const test::MmioSlot transport(*loop, SharedMemory());
  Require(transport->Attach(device).has_value());
  StateReader reader(bytes);
  if (!transport->Restore(reader).has_value()) return;
  // Wherever its queue lies, the device stays inside of it.
  loop->Stop();
  loop->Run();
  StateWriter writer;
  transport->Save(writer);
}

void Run(std::span<const std::byte> bytes) {
  static_cast<void>(machine::DecodeSnapshot(bytes));
  if (const auto snapshot = machine::DecodeSnapshotPayload(bytes); snapshot.has_value()) {
    // What was understood is understood again.
    const auto again = machine::DecodeSnapshot(machine::EncodeSnapshot(*snapshot));
    Require(again.has_value());
    Require(again->config.memory_mib == snapshot->config.memory_mib);
    Require(again->memory.size() == snapshot->memory.size());
    Require(again->devices == snapshot->devices);
  }
  StateReader vcpu(bytes);
  if (const auto state = VcpuState::Read(vcpu); state.has_value()) {
    StateWriter writer;
    state->Write(writer);
    Require(writer.bytes().size() <= bytes.size());
  }
  StateReader vm(bytes);
  static_cast<void>(VmState::Read(vm));
  RestoreDevice(bytes);
}

}  // namespace
}  // namespace embervm::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  embervm::fuzz::Run(std::as_bytes(std::span(data, size)));
  return 0;
}
