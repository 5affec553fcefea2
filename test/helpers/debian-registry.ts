/**
 * Debian's docker-registry on loopback, and images for it: made by umoci from files of Debian
 * packages, copied by skopeo. All of it lives in one directory.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { copyFile, mkdir, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** bcrypt, the only hash that the registry takes, of `secret`. */
export const account = { username: 'ada', password: 'secret' };
const HTPASSWD = 'ada:$2b$04$hMgJrb6xSrcimeS.8bxp5.pZj/oDAfZh0OAK8B/1k54xe.lopEku.\n';

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  if (typeof address !== 'object' || address === null) throw new Error('no port');
  return address.port;
}

export class DebianRegistry {
  readonly directory: string;
  host = '';
  #process: ChildProcess | undefined;

  constructor(directory: string) {
    this.directory = directory;
  }

  async start(): Promise<this> {
    this.host = `127.0.0.1:${await freePort()}`;
    const htpasswd = join(this.directory, 'htpasswd');
    await writeFile(htpasswd, HTPASSWD);
    const config = {
      version: '0.1',
      log: { level: 'error' },
      storage: { filesystem: { rootdirectory: join(this.directory, 'storage') } },
      http: { addr: this.host, relativeurls: true },
      auth: { htpasswd: { realm: 'test', path: htpasswd } },
    };
    const path = join(this.directory, 'registry.json');
    // YAML is a superset of JSON.
    await writeFile(path, JSON.stringify(config));
    this.#process = spawn('docker-registry', ['serve', path], { stdio: 'ignore' });
    const failed = once(this.#process, 'exit').then(() => {
      throw new Error('docker-registry ended');
    });
    failed.catch(() => {});
    await Promise.race([this.#ready(), failed]);
    return this;
  }

  async #ready(): Promise<void> {
    for (let tries = 0; tries < 200; tries += 1) {
      try {
        if ((await fetch(`http://${this.host}/v2/`)).status === 401) return;
      } catch {
        // It is not listening yet.
      }
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    throw new Error('docker-registry does not answer');
  }

  async stop(): Promise<void> {
    if (this.#process === undefined || this.#process.exitCode !== null) return;
    const ended = once(this.#process, 'exit');
    this.#process.kill('SIGTERM');
    await ended;
  }

  /** A layout with one image of two layers: busybox, and a file with its documentation. */
  async makeLayout(): Promise<string> {
    const layout = join(this.directory, 'layout');
    const umoci = (...args: string[]): Promise<unknown> => run('umoci', args);
    const image = `${layout}:box`;
    await umoci('init', '--layout', layout);
    await umoci('new', '--image', image);
    const files = join(this.directory, 'files');
    await mkdir(join(files, 'bin'), { recursive: true });
    await copyFile('/bin/busybox', join(files, 'bin/busybox'));
    await umoci('insert', '--rootless', '--image', image, join(files, 'bin'), '/bin');
    const doc = '/usr/share/doc/busybox-static/copyright';
    await umoci('insert', '--rootless', '--image', image, doc, '/copyright');
    await umoci('config', '--image', image, '--config.cmd', '/bin/busybox', '--config.env', 'A=b');
    return layout;
  }

  /** Copies between what skopeo knows; into the registry, with credentials. */
  async copy(from: string, to: string, ...options: string[]): Promise<void> {
    const { username, password } = account;
    const remote = to.startsWith('docker://')
      ? ['--dest-tls-verify=false', `--dest-creds=${username}:${password}`]
      : [];
    await run('skopeo', [
      ...['--insecure-policy', 'copy', '--quiet', ...remote, ...options],
      ...[from, to],
    ]);
  }
}
