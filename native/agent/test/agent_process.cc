#include "agent_process.h"

#include <dirent.h>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>

extern "C" {
#include "../connection.h"
#include "../control.h"
#include "../loop.h"
#include "../rawstream.h"
#include "../reaper.h"
#include "../root.h"
}

namespace embervm::agent_test {
namespace {

struct Address {
  sockaddr_un socket{};
  socklen_t length = 0;
};

// Abstract: nothing is left in the file system.
Address AddressOf(const std::string& name) {
  Address address;
  address.socket.sun_family = AF_UNIX;
  std::memcpy(address.socket.sun_path + 1, name.data(), name.size());
  address.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  return address;
}

const sockaddr* AsSockaddr(const Address& address) {
  return reinterpret_cast<const sockaddr*>(&address.socket);
}

// What is buffered is written once, and nothing of this process's surroundings
// reaches the programs that the agent starts.
pid_t Fork() {
  std::cout.flush();
  std::fflush(nullptr);
  const pid_t pid = fork();
  REQUIRE(pid >= 0);
  if (pid == 0) {
    close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);
  }
  return pid;
}

bool stop_asked = false;

void OnLifeline(loop_watch* watch, uint32_t) {
  loop_watch_close(watch);
  stop_asked = true;
}

// The agent itself; returns the exit status.
int Serve(int lifeline, int dialled, const control_address& host, const control_address* listen,
          const control_address* raw) {
  loop_watch lifeline_watch{};
  lifeline_watch.ready = OnLifeline;
  lifeline_watch.fd = lifeline;
  if (loop_start() < 0 || reaper_start() < 0 || loop_watch_set(&lifeline_watch, 1 /* IN */) < 0 ||
      control_start(dialled, &host, listen) < 0 || (raw != nullptr && raw_streams_start(raw) < 0)) {
    return 1;
  }
  while (!stop_asked) {
    loop_run_once(-1);
  }
  control_stop();
  raw_streams_stop();
  // The test has closed its ends: what is left ends now.
  for (int i = 0; i < 100 && connection_count() > 0; i++) {
    loop_run_once(20);
  }
  loop_run_once(0);
  reaper_stop();
  loop_stop();
  return connection_count() == 0 ? 0 : 2;
}

}  // namespace

AgentProcess::AgentProcess(const char* root) {
  static int count = 0;
  name_ = "embervm-agent-" + std::to_string(getpid()) + "-" + std::to_string(count++);
  const Address host = AddressOf(name_ + "-host");
  const Address guest = AddressOf(name_);
  const Address raw = AddressOf(name_ + "-raw");
  control_listener_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  REQUIRE(bind(control_listener_, AsSockaddr(host), host.length) == 0);
  REQUIRE(listen(control_listener_, 16) == 0);
  int lifeline[2];
  REQUIRE(pipe2(lifeline, O_CLOEXEC) == 0);
  pid_ = Fork();
  if (pid_ == 0) {
    close(lifeline[1]);
    close(control_listener_);
    // Orphans come to us, as they come to PID 1.
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    const control_address to{AsSockaddr(host), host.length};
    const control_address at{AsSockaddr(guest), guest.length};
    const control_address raw_at{AsSockaddr(raw), raw.length};
    std::exit(root_adopt(root) ? Serve(lifeline[0], control_dial(&to), to, &at, &raw_at) : 3);
  }
  close(lifeline[0]);
  lifeline_ = lifeline[1];
}

AgentProcess::AgentProcess(const std::function<bool()>& prepare) {
  int lifeline[2];
  int control[2];
  REQUIRE(pipe2(lifeline, O_CLOEXEC) == 0);
  REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, control) == 0);
  pid_ = Fork();
  if (pid_ == 0) {
    close(lifeline[1]);
    close(control[0]);
    if (unshare(CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWNET | CLONE_NEWIPC) < 0) {
      std::perror("unshare");
      _exit(4);
    }
    const pid_t init = fork();
    if (init == 0) {
      const Address nowhere = AddressOf("embervm-agent-nowhere");
      const control_address to{AsSockaddr(nowhere), nowhere.length};
      if (!prepare()) {
        std::perror("prepare");
        _exit(5);
      }
      _exit(Serve(lifeline[0], control[1], to, nullptr, nullptr));
    }
    // Passes on how PID 1 ended: a signal as 128 + number.
    close(lifeline[0]);
    close(control[1]);
    int status = 0;
    waitpid(init, &status, 0);
    _exit(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
  }
  close(lifeline[0]);
  close(control[1]);
  lifeline_ = lifeline[1];
  control_ = control[0];
}

int AgentProcess::Wait() {
  ended_ = true;
  int status = 0;
  CHECK(waitpid(pid_, &status, 0) == pid_);
  return status;
}

AgentProcess::~AgentProcess() {
  close(control_listener_);
  if (control_ >= 0) {
    close(control_);
  }
  close(lifeline_);
  if (!ended_) {
    CHECK(Wait() == 0);
  }
}

int AgentProcess::AcceptControl(int timeout_ms) {
  if (control_ >= 0) {
    const int control = control_;
    control_ = -1;
    return control;
  }
  pollfd waiting{control_listener_, POLLIN, 0};
  return poll(&waiting, 1, timeout_ms) == 1
             ? accept4(control_listener_, nullptr, nullptr, SOCK_CLOEXEC)
             : -1;
}

int AgentProcess::Connect() const { return ConnectTo(name_); }

int AgentProcess::ConnectRaw() const { return ConnectTo(name_ + "-raw"); }

int AgentProcess::ConnectTo(const std::string& name) {
  const Address guest = AddressOf(name);
  // Until the agent listens.
  for (int i = 0; i < 500; i++) {
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, AsSockaddr(guest), guest.length) == 0) {
      return fd;
    }
    close(fd);
    usleep(10'000);
  }
  return -1;
}

size_t AgentProcess::OpenDescriptors() const {
  size_t count = 0;
  DIR* directory = opendir(("/proc/" + std::to_string(pid_) + "/fd").c_str());
  REQUIRE(directory != nullptr);
  while (readdir(directory) != nullptr) {
    count++;
  }
  closedir(directory);
  return count;
}

bool AgentProcess::ReturnsToDescriptors(size_t count) const {
  for (int i = 0; i < 200 && OpenDescriptors() != count; i++) {
    usleep(10'000);
  }
  return OpenDescriptors() == count;
}

size_t AgentProcess::ResidentKib() const {
  std::ifstream statm("/proc/" + std::to_string(pid_) + "/statm");
  size_t total = 0;
  size_t resident = 0;
  statm >> total >> resident;
  return resident * static_cast<size_t>(sysconf(_SC_PAGESIZE)) / 1024;
}

size_t AgentProcess::Zombies() const {
  const std::string task = "/proc/" + std::to_string(pid_) + "/task/" + std::to_string(pid_);
  std::ifstream children(task + "/children");
  size_t count = 0;
  for (pid_t child = 0; children >> child;) {
    std::ifstream stat("/proc/" + std::to_string(child) + "/stat");
    std::string content;
    std::getline(stat, content);
    const size_t end = content.rfind(')');
    count += end != std::string::npos && content.compare(end, 4, ") Z ") == 0 ? 1 : 0;
  }
  return count;
}

}  // namespace embervm::agent_test
