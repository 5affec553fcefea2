// Watches the loop of a process that does nothing, until stdin ends. Prints "ready", then what
// StallProbe saw.
import { once } from 'node:events';
import { StallProbe } from '../lib/stall-probe.mjs';

const probe = new StallProbe();
probe.start();
console.log('ready');
process.stdin.resume();
await once(process.stdin, 'end');
console.log(JSON.stringify(probe.stop()));
