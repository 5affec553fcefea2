// Shows where a long series of steps is. On a terminal the line of the running step is rewritten
// every second; elsewhere a line says that it started, one every while that it still runs.
const HEARTBEAT_MS = 15_000;
const REDRAW_MS = 1_000;
const DETAIL_WIDTH = 60;

export const seconds = (ms) => `${(ms / 1000).toFixed(1)} s`;

export class Progress {
  #total;
  #index = 0;
  #title = '';
  #detail = '';
  #startedAt = 0;
  #timer;
  #out;

  /**
   * @param {number} total
   * @param {{ isTTY?: boolean, write: (text: string) => unknown }} out
   */
  constructor(total, out = process.stderr) {
    this.#total = total;
    this.#out = out;
  }

  start(title) {
    this.#index += 1;
    this.#title = title;
    this.#detail = '';
    this.#startedAt = performance.now();
  }

  /** The step has something to do, which takes a while. */
  working() {
    if (!this.#out.isTTY) this.#write('…');
    this.#timer = setInterval(() => this.#beat(), this.#out.isTTY ? REDRAW_MS : HEARTBEAT_MS);
    if (this.#out.isTTY) this.#beat();
  }

  detail(line) {
    this.#detail = line.trim().replace(/\s+/g, ' ').slice(0, DETAIL_WIDTH);
  }

  end(result) {
    clearInterval(this.#timer);
    const text = result ?? `done in ${seconds(performance.now() - this.#startedAt)}`;
    this.#write(text);
  }

  #beat() {
    const elapsed = seconds(performance.now() - this.#startedAt);
    const text = `… ${elapsed}  ${this.#detail}`;
    if (this.#out.isTTY) this.#out.write(`\r\x1b[K${this.#prefix()}${text}`);
    else this.#write(text);
  }

  #write(text) {
    const clear = this.#out.isTTY ? '\r\x1b[K' : '';
    this.#out.write(`${clear}${this.#prefix()}${text}\n`);
  }

  #prefix() {
    const width = String(this.#total).length;
    return `[${String(this.#index).padStart(width)}/${this.#total}] ${this.#title.padEnd(28)} `;
  }
}
