#include "machine/vcpu_thread.h"

#include <pthread.h>

#include <string>
#include <utility>
#include <variant>

#include "base/clock.h"
#include "kvm/kick.h"

namespace embervm::machine {

namespace {

constexpr std::uint64_t kNsPerSecond = 1'000'000'000;

ExitInfo HostFailure(const Error& error) {
  ExitInfo info{.reason = ExitReason::kFault, .message = error.message(), .context = {}};
  info.context.emplace_back("code", error.code());
  return info;
}

}  // namespace

VcpuThread::VcpuThread(KvmVcpu vcpu, VcpuHost& host, int kick_signal)
    : vcpu_(std::move(vcpu)), host_(host), kick_signal_(kick_signal) {
  auto counters = vcpu_.OpenStats();
  // Hosts without the statistics file simply do not count.
  if (counters.has_value()) counters_.emplace(std::move(counters).value());
}

VcpuThread::~VcpuThread() {
  if (!thread_.joinable()) return;
  Stop();
  thread_.Join();
}

Result<> VcpuThread::Start() {
  EMBERVM_TRY_ASSIGN(
      thread_, Thread::Start("ember-vcpu" + std::to_string(vcpu_.index()), [this] { Main(); }));
  return {};
}

void VcpuThread::Command(Wish wish) {
  {
    const std::lock_guard lock(mutex_);
    // Stop is final.
    if (wish_.load(std::memory_order_relaxed) == Wish::kStop) return;
    wish_.store(wish, std::memory_order_seq_cst);
    if (wish == Wish::kPause) ++pauses_;
  }
  changed_.notify_all();
  if (wish == Wish::kRun || !thread_.joinable()) return;
  vcpu_.set_immediate_exit(true);
  Kick(thread_.handle(), kick_signal_);
}

void VcpuThread::Main() {
  clockid_t clock = kNoClock;
  if (pthread_getcpuclockid(pthread_self(), &clock) == 0) cpu_clock_.store(clock);

  std::optional<ExitInfo> end;
  const Result<> unblocked = UnblockKickSignal(kick_signal_);
  if (!unblocked.has_value()) {
    end = HostFailure(unblocked.error());
  }
  while (!end.has_value() && wish_.load() != Wish::kStop) {
    if (wish_.load() == Wish::kPause) {
      WaitWhilePaused();
    } else {
      end = RunGuest();
    }
  }

  timespec time{};
  cpu_clock_.store(kNoClock);
  static_cast<void>(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time));
  cpu_time_ns_.store(static_cast<std::uint64_t>(time.tv_sec) * kNsPerSecond +
                     static_cast<std::uint64_t>(time.tv_nsec));
  host_.VcpuEnded(std::move(end));
}

void VcpuThread::WaitWhilePaused() {
  // Tells the guest's watchdogs that time stood still; a guest without
  // kvm-clock has none that would ask.
  [[maybe_unused]] const Result<> marked = vcpu_.MarkClockPaused();
  std::unique_lock lock(mutex_);
  while (wish_.load() == Wish::kPause) {
    // Each pause is answered: a resume and the next pause may both come before
    // this thread wakes.
    const std::uint64_t answered = pauses_;
    lock.unlock();
    host_.VcpuPaused();
    lock.lock();
    changed_.wait(lock, [&] { return wish_.load() != Wish::kPause || pauses_ != answered; });
  }
}

std::optional<ExitInfo> VcpuThread::RunGuest() {
  vcpu_.set_immediate_exit(false);
  // Pairs with Command(): a wish that came before the line above is seen here,
  // one that comes after it sets immediate_exit again.
  if (wish_.load(std::memory_order_seq_cst) != Wish::kRun) return std::nullopt;
  if (first_run_ns_.load(std::memory_order_relaxed) == kNotYet) {
    first_run_ns_.store(MonotonicNs(), std::memory_order_relaxed);
  }
  while (true) {
    Result<VcpuExit> exit = vcpu_.Run();
    if (!exit.has_value()) return HostFailure(exit.error());
    // Only here is the access of the exit before complete: the one safe point.
    if (std::holds_alternative<Interrupted>(*exit)) return std::nullopt;
    const bool emulation = std::holds_alternative<EmulationFailure>(*exit);
    const std::int64_t began_ns = MonotonicNs();
    auto end = host_.ServeExit(vcpu_, *exit);
    if (!emulation) {
      device_time_ns_.fetch_add(static_cast<std::uint64_t>(MonotonicNs() - began_ns),
                                std::memory_order_relaxed);
      device_exits_.fetch_add(1, std::memory_order_relaxed);
    }
    if (end.has_value()) return end;
  }
}

VcpuUsage VcpuThread::Usage() const {
  VcpuUsage usage;
  if (counters_.has_value()) {
    if (const auto values = counters_->Read(); values.has_value()) {
      usage.exits = values->exits.value_or(0);
      if (values->emulated_instructions.has_value()) {
        usage.emulated_instructions = static_cast<std::int64_t>(*values->emulated_instructions);
      }
      if (values->halted_ns.has_value()) {
        usage.halted_ns = static_cast<std::int64_t>(*values->halted_ns);
      }
    }
  }
  usage.device_exits = device_exits_.load(std::memory_order_relaxed);
  usage.device_time_ns = device_time_ns_.load(std::memory_order_relaxed);
  timespec time{};
  const clockid_t clock = cpu_clock_.load();
  if (clock != kNoClock && clock_gettime(clock, &time) == 0) {
    usage.cpu_time_ns = static_cast<std::uint64_t>(time.tv_sec) * kNsPerSecond +
                        static_cast<std::uint64_t>(time.tv_nsec);
  } else {
    usage.cpu_time_ns = cpu_time_ns_.load();
  }
  return usage;
}

std::optional<std::int64_t> VcpuThread::first_run_ns() const {
  const std::int64_t ns = first_run_ns_.load(std::memory_order_relaxed);
  if (ns == kNotYet) return std::nullopt;
  return ns;
}

}  // namespace embervm::machine
