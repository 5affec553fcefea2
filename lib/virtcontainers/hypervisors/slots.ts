/** How many devices can be added to a VM at a time. */
export const HOTPLUG_SLOTS = 8;
