/**
 * Debian's docker-registry on loopback, and images for it: made by umoci from files of Debian
 * packages, copied by skopeo. All of it lives in one directory.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { copyFile, lstat, mkdir, stat, writeFile } from 'node:fs/promises';
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
    const running = this.#process;
    this.#process = undefined;
    if (running === undefined || running.exitCode !== null) return;
    const ended = once(running, 'exit');
    running.kill('SIGTERM');
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

  /** An image of one layer for each of these lists of installed packages, and what it runs. */
  async makePackageLayout(tag: string, layers: string[][], cmd: string[]): Promise<string> {
    const layout = join(this.directory, `layout-${tag}`);
    const image = `${layout}:${tag}`;
    await run('umoci', ['init', '--layout', layout]);
    await run('umoci', ['new', '--image', image]);
    for (const [index, packages] of layers.entries()) {
      const tree = join(this.directory, `${tag}-${index}`);
      await copyPackages(packages, tree);
      await run('umoci', ['insert', '--rootless', '--image', image, tree, '/']);
    }
    const words = cmd.flatMap((word) => ['--config.cmd', word]);
    await run('umoci', ['config', '--image', image, ...words]);
    return layout;
  }

  /** Docker's configuration, as `docker login` leaves it, in a directory for `DOCKER_CONFIG`. */
  async logIn(): Promise<string> {
    const { username, password } = account;
    const auth = Buffer.from(`${username}:${password}`).toString('base64');
    const config = JSON.stringify({ auths: { [this.host]: { auth } } });
    await writeFile(join(this.directory, 'config.json'), config);
    return this.directory;
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

/** What installed packages have, without documents; links to directories are those of this host. */
async function copyPackages(packages: string[], tree: string): Promise<void> {
  const { stdout } = await run('dpkg', ['--listfiles', ...packages]);
  const paths = stdout.split('\n').filter((path) => /^\/(?!usr\/share\/)./.test(path));
  const files: string[] = [];
  for (const path of paths) {
    const own = await lstat(path).catch(() => undefined);
    const isDirectory = (await stat(path).catch(() => undefined))?.isDirectory() === true;
    if (own !== undefined && !isDirectory) files.push(path.slice(1));
  }
  await mkdir(tree, { recursive: true });
  const list = `${tree}.list`;
  await writeFile(list, files.join('\n'));
  await run('sh', ['-c', 'tar -C / -c -T "$1" | tar -C "$2" -x', 'sh', list, tree]);
}
