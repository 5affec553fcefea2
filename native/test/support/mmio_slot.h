// A virtio-mmio slot with a register page of its own: a machine has one mapping for all.
#ifndef EMBERVM_TEST_SUPPORT_MMIO_SLOT_H_
#define EMBERVM_TEST_SUPPORT_MMIO_SLOT_H_

#include <memory>
#include <utility>

#include "base/event_loop.h"
#include "base/mapping.h"
#include "memory/guest_memory.h"
#include "virtio/abi.h"
#include "virtio/mmio_transport.h"

namespace embervm::test {

class MmioSlot {
 public:
  MmioSlot(EventLoop& loop, const GuestMemory& memory,
           virtio::MmioTransport::FailureHandler on_failure = nullptr)
      : page_(Mapping::Create(virtio::kMmioPageSize, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, "a register page")
                  .value()),
        transport_(virtio::MmioTransport::Create(loop, memory, std::move(on_failure), page_.bytes())
                       .value()) {}

  virtio::MmioTransport& operator*() const { return *transport_; }
  virtio::MmioTransport* operator->() const { return transport_.get(); }

 private:
  Mapping page_;
  std::unique_ptr<virtio::MmioTransport> transport_;
};

}  // namespace embervm::test

#endif  // EMBERVM_TEST_SUPPORT_MMIO_SLOT_H_
