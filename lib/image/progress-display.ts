/**
 * Shows a person how far a pull is. On a terminal there is a line for each layer, which is written
 * anew in its place; elsewhere each step is a line, once. The cursor is below it all the time, so
 * that nothing has to be ended, whatever becomes of the pull.
 */
import type { ImageProgressEvent } from '../config/image.js';
import type { ProgressEvent } from '../config/sandbox.js';

/** What the display takes of a `tty.WriteStream`; others may be anything that can be written to. */
export interface ProgressStream {
  write(text: string): unknown;
  readonly isTTY?: boolean | undefined;
  readonly columns?: number | undefined;
  readonly rows?: number | undefined;
}

type LayerEvent = Extract<ImageProgressEvent, { type: 'layer' }>;

const FRAME_MS = 50;
const DEFAULT_COLUMNS = 80;
const DEFAULT_ROWS = 24;
const BAR = 24;
/** Of a digest: as Docker shows it. */
const SHORT_ID = 12;
const ELLIPSIS = '…';

/**
 * For `onProgress`: tells on `stream`, by default standard error, how far a pull is. What is in the
 * store already is not worth a word.
 *
 * @example
 * await Image.pull('python:3.12', { onProgress: showProgress() });
 */
export function showProgress(
  stream: ProgressStream = process.stderr,
): (event: ProgressEvent) => void {
  const display =
    stream.isTTY === true && process.env.TERM !== 'dumb'
      ? new TerminalDisplay(stream)
      : new LineDisplay(stream);
  return (event) => {
    // A start is over before anybody has read what it does.
    if (event.type !== 'stage') display.show(event);
  };
}

class LineDisplay {
  readonly #stream: ProgressStream;
  #told = false;

  constructor(stream: ProgressStream) {
    this.#stream = stream;
  }

  show(event: ImageProgressEvent): void {
    const text = lineOf(event, this.#told);
    if (text === undefined) return;
    this.#told = event.type !== 'done';
    this.#stream.write(`${text}\n`);
  }
}

/** `told`: there were other lines about this pull. */
function lineOf(event: ImageProgressEvent, told: boolean): string | undefined {
  switch (event.type) {
    case 'resolving':
      return `${shown(event.reference)}: looking it up`;
    case 'resolved':
      return `${shown(event.reference)}: ${event.digest}, ${layers(event.layers)}, ${mib(event.totalBytes)}`;
    case 'layer':
      if (event.status === 'progress') return undefined;
      return `${idOf(event.digest)}: ${event.status === 'done' ? endOf(event) : `fetching ${mib(event.totalBytes)}`}`;
    case 'converting':
      return 'making a root file system of it';
    case 'done':
      return told ? `${shown(event.reference)}: ${event.cached ? 'as it was' : 'done'}` : undefined;
  }
}

class TerminalDisplay {
  readonly #stream: ProgressStream;
  readonly #layers = new Map<string, LayerEvent>();
  #title = '';
  #step = '';
  #count = 0;
  #drawn = 0;
  #drawnAt = Number.NEGATIVE_INFINITY;

  constructor(stream: ProgressStream) {
    this.#stream = stream;
  }

  show(event: ImageProgressEvent): void {
    switch (event.type) {
      case 'resolving':
        this.#begin(event.reference);
        break;
      case 'resolved':
        this.#count = event.layers;
        this.#step = `${layers(event.layers)}, ${mib(event.totalBytes)}`;
        break;
      case 'layer':
        this.#layers.set(event.digest, event);
        // The next one draws it.
        if (event.status === 'progress' && performance.now() - this.#drawnAt < FRAME_MS) return;
        this.#step = this.#sum();
        break;
      case 'converting':
        this.#step = 'making a root file system of it';
        break;
      case 'done':
        if (this.#drawn === 0) return;
        this.#step = event.cached ? 'as it was' : event.digest;
        break;
    }
    this.#draw();
    // What comes next is about something else, and below.
    if (event.type === 'done') this.#drawn = 0;
  }

  #begin(reference: string): void {
    this.#title = shown(reference);
    this.#step = 'looking it up';
    this.#count = 0;
    this.#drawn = 0;
    this.#layers.clear();
  }

  #sum(): string {
    const all = [...this.#layers.values()];
    const done = all.filter(({ status }) => status === 'done').length;
    return `${done} of ${layers(this.#count)}`;
  }

  #draw(): void {
    const { columns = DEFAULT_COLUMNS, rows = DEFAULT_ROWS } = this.#stream;
    const lines = [`${this.#title}: ${this.#step}`, ...this.#visible(rows - 2).map(barOf)];
    const text = lines.map((line) => `\x1b[2K${clip(line, columns - 1)}\n`).join('');
    const back = this.#drawn === 0 ? '' : `\x1b[${this.#drawn}A`;
    this.#stream.write(`${back}${text}\x1b[J`);
    this.#drawn = lines.length;
    this.#drawnAt = performance.now();
  }

  /** What has scrolled away cannot be written anew: those that are done make room first. */
  #visible(most: number): LayerEvent[] {
    const all = [...this.#layers.values()];
    let excess = all.length - Math.max(most, 1);
    const open = all.filter(({ status }) => status !== 'done' || excess-- <= 0);
    return open.slice(-Math.max(most, 1));
  }
}

function barOf(event: LayerEvent): string {
  const { digest, status, receivedBytes, totalBytes } = event;
  if (status === 'done') return `  ${idOf(digest)}  ${endOf(event)}`;
  const share = totalBytes === 0 ? 1 : Math.min(receivedBytes / totalBytes, 1);
  const filled = Math.floor(share * BAR);
  const bar = '='.repeat(filled) + (filled < BAR ? '>' : '');
  return `  ${idOf(digest)}  [${bar.padEnd(BAR)}]  ${mib(receivedBytes)} of ${mib(totalBytes)}`;
}

function endOf({ cached, totalBytes }: LayerEvent): string {
  return cached === true ? 'there already' : `${mib(totalBytes)}, done`;
}

function idOf(digest: string): string {
  return digest.replace(/^\w+:/, '').slice(0, SHORT_ID);
}

function layers(count: number): string {
  return count === 1 ? '1 layer' : `${count} layers`;
}

function mib(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(1)} MiB`;
}

/** A name, or the path of an archive: nothing in it commands the terminal. */
function shown(reference: string): string {
  return reference.replace(/\p{Cc}/gu, '?');
}

/** A line that is too long would be two. Letters of other scripts may be two columns wide. */
function clip(line: string, columns: number): string {
  let left = columns;
  let end = 0;
  let last = 0;
  for (const letter of line) {
    left -= letter > '\x7f' && letter !== ELLIPSIS ? 2 : 1;
    if (left < 0) return `${line.slice(0, end - last)}${ELLIPSIS}`;
    last = letter.length;
    end += last;
  }
  return line;
}
