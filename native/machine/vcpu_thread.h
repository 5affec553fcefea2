// VcpuThread: runs one vCPU on a thread of its own. It is commanded from the
// device thread and answers there; the two never wait for each other.
#ifndef EMBERVM_MACHINE_VCPU_THREAD_H_
#define EMBERVM_MACHINE_VCPU_THREAD_H_

#include <sys/types.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <ctime>
#include <mutex>
#include <optional>

#include "base/result.h"
#include "base/thread.h"
#include "kvm/stats.h"
#include "kvm/vcpu.h"
#include "machine/observer.h"
#include "machine/stats.h"

namespace embervm::machine {

// What a vCPU needs of its machine. Called on the vCPU's thread.
class VcpuHost {
 public:
  VcpuHost() = default;
  VcpuHost(const VcpuHost&) = delete;
  VcpuHost& operator=(const VcpuHost&) = delete;
  virtual ~VcpuHost() = default;

  // Serves one exit. A value ends the machine with it.
  virtual std::optional<ExitInfo> ServeExit(KvmVcpu& vcpu, VcpuExit& exit) = 0;
  virtual void VcpuPaused() = 0;
  // The thread's last call.
  virtual void VcpuEnded(std::optional<ExitInfo> info) = 0;
};

class VcpuThread {
 public:
  VcpuThread(KvmVcpu vcpu, VcpuHost& host, int kick_signal);
  VcpuThread(const VcpuThread&) = delete;
  VcpuThread& operator=(const VcpuThread&) = delete;
  // Stops and joins; a guest that runs is interrupted.
  ~VcpuThread();

  // Device thread. Start() once; then each takes effect soon, and Pause() and
  // Stop() are answered by VcpuPaused() and VcpuEnded().
  Result<> Start();
  void Pause() { Command(Wish::kPause); }
  void Resume() { Command(Wish::kRun); }
  void Stop() { Command(Wish::kStop); }

  [[nodiscard]] bool started() const { return thread_.joinable(); }

  // Device thread, while the vCPU is paused or was not started.
  [[nodiscard]] KvmVcpu& vcpu() { return vcpu_; }

  // Any thread.
  [[nodiscard]] VcpuUsage Usage() const;
  // When the guest was first entered; absent before.
  [[nodiscard]] std::optional<std::int64_t> first_run_ns() const;

 private:
  enum class Wish : std::uint8_t { kRun, kPause, kStop };

  void Command(Wish wish);
  void Main();
  // Runs the guest until a wish other than kRun is there, or the machine ends.
  std::optional<ExitInfo> RunGuest();
  void WaitWhilePaused();

  KvmVcpu vcpu_;
  VcpuHost& host_;
  const int kick_signal_;
  std::optional<VcpuStats> counters_;
  Thread thread_;

  std::mutex mutex_;
  std::condition_variable changed_;
  // Written under mutex_; read without it between exits. The sequentially
  // consistent store pairs with the load that follows the vCPU thread's
  // clearing of immediate_exit: one of the two sees the other.
  std::atomic<Wish> wish_{Wish::kRun};
  std::uint64_t pauses_ = 0;  // Guarded by mutex_.

  static constexpr clockid_t kNoClock = -1;
  static constexpr std::int64_t kNotYet = -1;
  // The thread's CPU clock while it lives; afterwards its last reading.
  std::atomic<clockid_t> cpu_clock_{kNoClock};
  std::atomic<std::uint64_t> cpu_time_ns_{0};
  std::atomic<std::uint64_t> device_time_ns_{0};
  std::atomic<std::uint64_t> device_exits_{0};
  std::atomic<std::int64_t> first_run_ns_{kNotYet};
};

}  // namespace embervm::machine

#endif  // EMBERVM_MACHINE_VCPU_THREAD_H_
