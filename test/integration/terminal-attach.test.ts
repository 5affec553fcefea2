import { openSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Sandbox } from '../../lib/index.js';
import { packageRoot } from '../../lib/native/package-root.js';
import { BOOT_TIMEOUT_MS, describeGuest, small, useHome } from '../helpers/guest.js';
import { rejection } from '../helpers/rejection.js';
import { Tmux } from '../helpers/tmux.js';

useHome();
const fixture = join(packageRoot(), 'test/fixtures/attach.mjs');
const entry = pathToFileURL(join(packageRoot(), 'dist/index.js')).href;
let tmux: Tmux;

// The tests are stations of one session: a person at a terminal, as test/fixtures/attach.mjs asks.
describeGuest('an attached terminal', () => {
  beforeAll(async () => {
    // Wide enough that no line of interest is broken.
    tmux = new Tmux("env PS1='host> ' sh", 120, 24);
    await tmux.see(/host>/);
    tmux.type(
      `clear; ${process.execPath} ${fixture} ${entry}; echo "exit $?"; stty -a | grep icanon`,
    );
    tmux.press('Enter');
    await tmux.see(/guest>/, BOOT_TIMEOUT_MS);
  }, BOOT_TIMEOUT_MS);

  afterAll(() => {
    if (process.env.EMBERVM_TEST_TRANSCRIPT !== undefined) console.log(tmux.screen());
    tmux?.close();
  });

  test('has the size of the one it is attached to, and follows it', async () => {
    tmux.type('stty size; tty');
    tmux.press('Enter');
    await tmux.see(/^24 120\n\/dev\/pts\//m);
    tmux.resize(132, 50);
    await sleep(1000);
    tmux.type('stty size');
    tmux.press('Enter');
    await tmux.see(/^50 132$/m);
  });

  test('passes Ctrl-C and Ctrl-Z to the guest', async () => {
    tmux.type('sh -c "echo go \\$((40 + 1)); exec sleep 1000"');
    tmux.press('Enter');
    await tmux.see(/^go 41$/m);
    tmux.press('C-z');
    await tmux.see(/^(\^Z)?\[1\]\+ +Stopped/m);
    tmux.type('echo now $((40 + 2)); fg');
    tmux.press('Enter');
    await tmux.see(/^now 42$/m);
    await sleep(2000);
    tmux.press('C-c');
    tmux.type('echo then $((40 + 3))');
    tmux.press('Enter');
    await tmux.see(/^then 43$/m);
  });

  test('resolves to the exit code, with the mode restored', async () => {
    tmux.type('exit 7');
    tmux.press('Enter');
    await tmux.see(/^shell: 7, terminal restored$/m);
  });

  test('leaves the program running when it is detached', async () => {
    await tmux.see(/^waiting\ntick\ntick$/m);
    tmux.press('C-]');
    await tmux.see(/^detach: 0, terminal restored$/m);
    await tmux.see(/^the detached program runs$/m);
  });

  test('detaches by a sequence of keys, and passes what only begins it', async () => {
    await sleep(3000);
    tmux.press('C-p', 'x', 'C-]', 'Enter');
    // The terminal's echo, and what cat -v makes of it.
    await tmux.see(/^\^Px\^\]\n\^Px\^\]$/m);
    tmux.press('C-p', 'C-q');
    await tmux.see(/^sequence: 0, terminal restored$/m);
  });

  test('is not touched by what does not start', async () => {
    await tmux.see(/^missing: ERR_EXEC_FAILED, terminal restored$/m);
  });

  test('reports a signal as shells do, and a time limit', async () => {
    await tmux.see(/^signal: 143, terminal restored$/m);
    await tmux.see(/^limit: ERR_EXEC_TIMEOUT, terminal restored$/m);
  });

  test('is restored when the machine dies', async () => {
    await tmux.see(/^killed machine: ERR_SANDBOX_STOPPED, terminal restored$/m);
  });

  test('is restored when the process exits', { timeout: BOOT_TIMEOUT_MS }, async () => {
    // The fixture exits only once the terminal is raw.
    await tmux.see(/exit 5\n.*[^-]icanon/, BOOT_TIMEOUT_MS);
    tmux.type('echo "back $((40 + 4))"');
    tmux.press('Enter');
    await tmux.see(/^back 44$/m);
  });
});

describeGuest('attach', () => {
  let sandbox: Sandbox;

  beforeAll(async () => {
    sandbox = await Sandbox.create(small());
  }, BOOT_TIMEOUT_MS);

  afterAll(async () => {
    await sandbox?.close();
  });

  test('refuses what is no terminal, and starts nothing', async () => {
    const fd = openSync('/dev/null', 'r+');
    const error = await rejection(sandbox.attach('touch', ['/started'], { input: fd, output: fd }));
    expect(error).toMatchObject({ code: 'ERR_NOT_A_TERMINAL', context: { which: 'input' } });
    expect((await sandbox.shell('test -e /started')).success).toBe(false);
    expect((await sandbox.metrics()).processes.running).toBe(0);
  });

  test.each([
    [{ detachKeys: 'ctrl-1' }, 'detachKeys'],
    [{ detachKeys: 'ctrl-p,,' }, 'detachKeys'],
    [{ detachKeys: Array.from({ length: 17 }, () => 'a').join(',') }, 'detachKeys'],
    [{ input: -1 }, 'input'],
    [{ output: {} }, 'output'],
    [{ onDetach: 1 }, 'onDetach'],
    [{ stdin: 'pipe' }, 'stdin'],
    [{ cwd: 'relative' }, 'cwd'],
  ])('refuses the options %j', async (options, name) => {
    const error = await rejection(sandbox.attach('sh', [], options as never));
    expect(error.code).toBe('ERR_INVALID_CONFIG');
    expect(error.message).toContain(name);
  });
});
