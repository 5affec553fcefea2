// QEMU's control channel (QMP): one JSON object a line, answers in the order of the commands.

export class Monitor {
  #stream;
  #waiting = [];
  #rest = '';
  #ended;

  /** @param {import('node:stream').Duplex} stream */
  constructor(stream) {
    this.#stream = stream;
    stream.setEncoding('utf8');
    stream.on('data', (chunk) => this.#receive(chunk));
    stream.on('error', () => {});
    stream.on('close', () => this.#end());
  }

  /** What QEMU returns for a command; rejects with its error. */
  execute(command, args = {}) {
    if (this.#ended) return Promise.reject(new Error(`QEMU has ended before ${command}`));
    return new Promise((resolve, reject) => {
      this.#waiting.push({ command, resolve, reject });
      this.#stream.write(`${JSON.stringify({ execute: command, arguments: args })}\n`);
    });
  }

  #receive(chunk) {
    const lines = (this.#rest + chunk).split('\n');
    this.#rest = lines.pop();
    for (const line of lines) {
      const message = JSON.parse(line);
      if ('return' in message) this.#waiting.shift().resolve(message.return);
      if ('error' in message) {
        const { command, reject } = this.#waiting.shift();
        reject(new Error(`${command}: ${message.error.desc}`));
      }
    }
  }

  #end() {
    this.#ended = true;
    for (const { command, reject } of this.#waiting.splice(0)) {
      reject(new Error(`QEMU has ended in ${command}`));
    }
  }
}
