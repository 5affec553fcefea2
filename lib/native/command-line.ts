/**
 * Kernel command line of our own guest: what guest/kernel/cmdline says for all
 * hosts, which is where the reasons are. The addon adds the rest. A test keeps
 * the two together.
 */
export const guestCommandLine: readonly string[] = [
  'quiet',
  'reboot=k',
  'panic=-1',
  'tsc=reliable',
  'no_timer_check',
  'mitigations=off',
  'thash_entries=512',
  'uhash_entries=256',
  'dhash_entries=2048',
  'ihash_entries=1024',
  'mhash_entries=256',
  'mphash_entries=256',
  'nf_conntrack.hashsize=256',
  'noreplace-smp',
];
