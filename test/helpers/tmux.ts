/** A terminal emulator for tests: tmux, on a server of its own. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const POLL_MS = 200;

export class Tmux {
  readonly #directory = mkdtempSync(join(tmpdir(), 'embervm-tmux-'));

  /** Runs `command` in a window of this size. */
  constructor(command: string, cols: number, rows: number) {
    const size = ['-x', String(cols), '-y', String(rows)];
    this.#tmux('-f', '/dev/null', 'new-session', '-d', ...size, command);
  }

  type(text: string): void {
    this.#tmux('send-keys', '-l', '--', text);
  }

  /** Keys by name, such as `Enter` and `C-c`. */
  press(...keys: string[]): void {
    this.#tmux('send-keys', ...keys);
  }

  resize(cols: number, rows: number): void {
    this.#tmux('resize-window', '-x', String(cols), '-y', String(rows));
  }

  /** All that was shown, without empty lines. */
  screen(): string {
    const lines = this.#tmux('capture-pane', '-p', '-J', '-S', '-').split('\n');
    return lines
      .map((line) => line.trimEnd())
      .filter((line) => line !== '')
      .join('\n');
  }

  /** Waits until `what` has been shown. */
  async see(what: RegExp, timeoutMs = 60_000): Promise<RegExpExecArray> {
    const end = performance.now() + timeoutMs;
    for (;;) {
      const screen = this.screen();
      const found = what.exec(screen);
      if (found !== null) return found;
      if (performance.now() > end) throw new Error(`no ${what} in:\n${screen}`);
      await sleep(POLL_MS);
    }
  }

  close(): void {
    try {
      this.#tmux('kill-server');
    } finally {
      rmSync(this.#directory, { recursive: true, force: true });
    }
  }

  #tmux(...args: string[]): string {
    const env = { ...process.env, TMUX: '', LC_ALL: 'C.UTF-8' };
    return execFileSync('tmux', ['-S', join(this.#directory, 'socket'), ...args], {
      encoding: 'utf8',
      env,
    });
  }
}
