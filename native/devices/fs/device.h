// virtio-fs (virtio 1.2 §5.11): a directory of the host for the guest to mount. Its requests
// block for the host's file system, so a thread of its own serves the queues, from
// Activate() to Reset(); the device thread only wakes it.
#ifndef EMBERVM_DEVICES_FS_DEVICE_H_
#define EMBERVM_DEVICES_FS_DEVICE_H_

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/thread.h"
#include "devices/fs/options.h"
#include "devices/fs/protocol.h"
#include "devices/fs/server.h"
#include "virtio/chain.h"
#include "virtio/device.h"

namespace embervm::devices {

class FsDevice final : public virtio::Device {
 public:
  using Counters = fs::Server::Counters;

  // For the errors see fs::Server::Open().
  static Result<std::unique_ptr<FsDevice>> Open(const FsOptions& options);
  ~FsDevice() override { Reset(); }

  [[nodiscard]] std::uint32_t type() const override;
  [[nodiscard]] std::string_view name() const override { return name_; }
  [[nodiscard]] std::uint64_t features() const override { return 0; }
  [[nodiscard]] std::span<const std::uint16_t> queue_sizes() const override;
  [[nodiscard]] std::span<const std::byte> config() const override;
  Result<> Activate(const virtio::DeviceContext& context) override;
  void Notify(std::uint16_t queue) override;
  // Returns when the request at hand has ended: what it fills is the guest's memory.
  void Reset() override;
  // The guest holds numbers of files that only this process knows: always refused.
  Result<> BeforeSave() override;

  // Any thread.
  [[nodiscard]] Counters counters() const { return server_->counters(); }

 private:
  FsDevice(std::unique_ptr<fs::Server> server, const std::string& tag);

  // A request that waits for a lock.
  struct Waiting {
    std::uint64_t lock;
    std::uint16_t queue;
    virtio::Chain chain;
  };

  // The worker.
  void Run();
  // Whether there may be more.
  bool Serve(std::uint16_t index);
  void RetryLocks();
  void Complete(std::uint16_t index, const virtio::Chain& chain, std::uint32_t length);

  const std::string name_;
  fs::Config config_{};
  const std::unique_ptr<fs::Server> server_;

  // Set while the worker runs.
  const virtio::DeviceContext* context_ = nullptr;
  Thread worker_;
  // The worker's own.
  std::vector<Waiting> waiting_;

  std::mutex mutex_;
  std::condition_variable wake_;
  // Guarded by mutex_. A bit per queue.
  std::uint32_t pending_ = 0;
  bool stop_ = false;
  // Told by the worker, for the device thread to pass on.
  std::optional<Error> failure_;
};

}  // namespace embervm::devices

#endif  // EMBERVM_DEVICES_FS_DEVICE_H_
