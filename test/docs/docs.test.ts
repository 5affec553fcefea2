import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, describe, expect, it } from 'vitest';
import { useHome } from '../helpers/guest.js';

useHome();

const run = promisify(execFile);
const root = fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '');
/** Below the package, so that `import 'embervm'` finds this checkout. */
const scratch = join(root, 'build/docs');

const pages = [
  ...readdirSync(root).filter((name) => name.endsWith('.md')),
  ...readdirSync(join(root, 'docs')).map((name) => `docs/${name}`),
];
const read = (page: string): string => readFileSync(join(root, page), 'utf8');

/** The blocks marked "js run", joined: a page is one program. */
function programOf(page: string): string {
  return [...read(page).matchAll(/^```js run\n(.*?)^```$/gms)].map((match) => match[1]).join('\n');
}

/** What the program says that it prints: the comments after `console.log`. */
function promisesOf(program: string): string[] {
  return [...program.matchAll(/console\.log\(.*\).*; \/\/ (.+)$/gm)].map((match) => match[1] ?? '');
}

/** What a page takes for granted. */
const prelude: Record<string, string> = {
  'docs/machine.md': `
    const kernelPath = ${JSON.stringify(join(root, 'build/guest/vmlinux'))};
    const initrdPath = ${JSON.stringify(join(root, 'build/guest/initramfs.cpio'))};
    const snapshotPath = ${JSON.stringify(join(scratch, 'snapshot'))};
    const diskPath = ${JSON.stringify(join(scratch, 'disk'))};
    await (await import('node:fs/promises')).writeFile(diskPath, new Uint8Array(4096));
  `,
  'docs/images.md': `
    const rootDirectory = ${JSON.stringify(join(scratch, 'root'))};
    const fs = await import('node:fs');
    fs.mkdirSync(rootDirectory + '/bin', { recursive: true });
    fs.copyFileSync('/bin/busybox', rootDirectory + '/bin/cat');
    fs.writeFileSync(rootDirectory + '/greeting', 'hello\\n');
  `,
};

describe('documents that are programs', () => {
  afterAll(() => rmSync(scratch, { recursive: true, force: true }));

  it.each(pages.filter((page) => programOf(page) !== ''))(
    '%s runs as it is written',
    async (page) => {
      const program = programOf(page);
      const file = join(scratch, `${page.replace('/', '-')}.mjs`);
      mkdirSync(scratch, { recursive: true });
      writeFileSync(file, (prelude[page] ?? '') + program);
      const { stdout } = await run(process.execPath, [file]);
      const printed = stdout.split('\n').filter((line) => line !== '');
      expect(printed).toEqual(promisesOf(program));
    },
  );

  it('are at least the README and the two main pages', () => {
    for (const page of ['README.md', 'docs/sandbox.md', 'docs/machine.md']) {
      expect(promisesOf(programOf(page)).length).toBeGreaterThan(1);
    }
  });
});

describe('examples', () => {
  it('run a script that never ends, and say so', async () => {
    const { stdout } = await run(process.execPath, [join(root, 'examples/run-untrusted.mjs')]);
    expect(stdout).toBe('it took too long; until then it said:\nI am user\n');
  });

  it('serve scripts over HTTP', async () => {
    const service = spawn(process.execPath, [join(root, 'examples/http-service.mjs')], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    try {
      const [address] = (await once(service.stdout, 'data')) as [Buffer];
      const post = async (body: string): Promise<string> =>
        (await fetch(address.toString().trim(), { method: 'POST', body })).text();
      expect(await Promise.all([post('echo one'), post('uname -s')])).toEqual(['one\n', 'Linux\n']);
    } finally {
      service.kill('SIGTERM');
      expect(await once(service, 'exit')).toEqual([0, null]);
    }
  });
});

describe('links', () => {
  it.each(pages)('of %s lead to files', (page) => {
    for (const [, target] of read(page).matchAll(/\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)/g)) {
      const file = join(root, dirname(page), target ?? '');
      expect([target, existsSync(file)]).toEqual([target, true]);
    }
  });
});

describe('commands', () => {
  const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> };

  it.each(pages)('of %s exist', (page) => {
    for (const [, name] of read(page).matchAll(/npm run ([a-z][\w:-]*)/g)) {
      expect(Object.keys(scripts)).toContain(name);
    }
  });
});
