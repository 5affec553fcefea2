#include "poweroff.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <sys/reboot.h>
#include <unistd.h>

#include "exec.h"
#include "files.h"
#include "init.h"
#include "limits.h"
#include "log.h"
#include "loop.h"
#include "reaper.h"
#include "root.h"

enum phase { PHASE_NONE, PHASE_TERMINATE, PHASE_KILL, PHASE_HALT };

static void on_begin(struct loop_task* task);
static void on_halt(struct loop_task* task);
static void on_grace_over(struct loop_timer* timer);

static struct {
  enum phase phase;
  uint32_t grace_ms;
  struct loop_task begin;
  struct loop_task halt;
  struct loop_timer grace;
} power = {.begin = {.run = on_begin}, .halt = {.run = on_halt}, .grace = {.fire = on_grace_over}};

bool power_off_has_begun(void) { return power.phase != PHASE_NONE; }

static void halt(void) {
  power.phase = PHASE_HALT;
  loop_timer_stop(&power.grace);
  // The ends of pipes whose last writer was reaped just now have not been seen yet.
  exec_settle_all();
  // A task runs behind those that write what is queued for the host.
  loop_task_queue(&power.halt);
}

static void on_halt(struct loop_task* task) {
  (void)task;
  files_release();
  sync();
  root_tear_down();
  reboot(RB_POWER_OFF);
  log_error("reboot(RB_POWER_OFF)", errno);
  reboot(RB_AUTOBOOT);
}

static void on_begin(struct loop_task* task) {
  (void)task;
  if (!reaper_collect()) {
    halt();
    return;
  }
  if (!init_shut_down()) {
    kill(-1, SIGTERM);
  }
  // A stopped process acts on it only once it continues.
  kill(-1, SIGCONT);
  loop_timer_start(&power.grace, power.grace_ms);
}

static void on_grace_over(struct loop_timer* timer) {
  if (power.phase == PHASE_TERMINATE) {
    power.phase = PHASE_KILL;
    kill(-1, SIGKILL);
    loop_timer_start(timer, AGENT_KILL_GRACE_MS);
    return;
  }
  log_error("power off: processes outlive SIGKILL", 0);
  halt();
}

void power_off_begin(uint32_t grace_ms) {
  if (power.phase != PHASE_NONE) {
    return;
  }
  power.phase = PHASE_TERMINATE;
  power.grace_ms = grace_ms;
  loop_task_queue(&power.begin);
}

void power_off_children_gone(void) {
  if (power.phase == PHASE_TERMINATE || power.phase == PHASE_KILL) {
    halt();
  }
}
