// Restores the machine in the directory that is named, in a process that has done nothing before.
// Prints { aliveAt }: when its guest said that it is alive, in ms since the epoch.
import { Machine } from '../../dist/machine/index.js';
import { printed } from '../lib/console.mjs';

const TIMEOUT_MS = 30_000;

const machine = await Machine.restore(process.argv[2]);
await machine.resume();
await printed(machine, 'alive', TIMEOUT_MS);
const aliveAt = performance.timeOrigin + performance.now();
await machine.close();
console.log(JSON.stringify({ aliveAt }));
