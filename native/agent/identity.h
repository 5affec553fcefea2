// What tells a machine from others that have the same memory and the same disk, besides its
// host name: /proc/sys/kernel/random/boot_id and /etc/machine-id of its root.
#ifndef EMBERVM_AGENT_IDENTITY_H_
#define EMBERVM_AGENT_IDENTITY_H_

// When the root is set up. The kernel makes its boot_id once and keeps it, so the workload
// sees a file of the agent's in its place; its own where there can be none.
void identity_give_boot_id(int root_fd);

// When the machine goes on from a snapshot, after its random pool is its own. -1: there is no
// root yet. A machine-id that is empty or missing is left to the workload's init.
void identity_renew(int root_fd);

#endif  // EMBERVM_AGENT_IDENTITY_H_
