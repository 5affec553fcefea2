// Devices and CPUs that come and go while the guest runs, by way of sysfs.
#ifndef EMBERVM_AGENT_HOTPLUG_H_
#define EMBERVM_AGENT_HOTPLUG_H_

#include <stdint.h>

#include "text.h"

// Binds the driver to the virtio-mmio slot of this number on the kernel's command line,
// where the host has put a device; `node` gets "/dev/…", or nothing when the device is
// not a disk. 0, or an errno with the reason.
int slot_bind(uint32_t slot, struct text* node, struct text* reason);

// Takes the driver off again; EBUSY while a disk is mounted or otherwise claimed.
int slot_unbind(uint32_t slot, struct text* reason);

// Brings CPUs on line or off until the first `count` are on. 0, or an errno.
int cpus_set_online(uint32_t count, struct text* reason);

#endif  // EMBERVM_AGENT_HOTPLUG_H_
