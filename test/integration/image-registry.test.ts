import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ImageContents, ImageSource } from '../../lib/image/source.js';
import { ArchiveSource, LayoutSource } from '../../lib/image/sources/local.js';
import { RegistrySource } from '../../lib/image/sources/registry.js';
import { packageRoot } from '../../lib/native/package-root.js';
import { account, DebianRegistry } from '../helpers/debian-registry.js';
import { makeDirectory } from '../helpers/directory.js';
import { BOOT_TIMEOUT_MS, describeGuest, useHome } from '../helpers/guest.js';
import { digestOf } from '../helpers/image-fixture.js';
import { collect } from '../helpers/loopback-registry.js';
import { rejection } from '../helpers/rejection.js';

let registry: DebianRegistry;
let layout: string;
let original: { contents: ImageContents; blobs: string[] };
const { directory, remove } = makeDirectory();

async function pull(source: ImageSource): Promise<typeof original> {
  try {
    const contents = await source.resolve({});
    const blobs = await Promise.all(
      contents.layers.map(async (layer) =>
        digestOf(await collect(await source.openBlob(layer, {}))),
      ),
    );
    return { contents, blobs };
  } finally {
    await source.close();
  }
}

const fromRegistry = (name: string, auth?: typeof account): RegistrySource =>
  new RegistrySource(`${registry.host}/${name}`, {
    auth,
    registry: { dockerConfig: false, retries: 0 },
  });

beforeAll(async () => {
  registry = await new DebianRegistry(await directory).start();
  layout = await registry.makeLayout();
  await registry.copy(`oci:${layout}:box`, `docker://${registry.host}/team/box:oci`);
  const docker = ['--format', 'v2s2'];
  await registry.copy(`oci:${layout}:box`, `docker://${registry.host}/team/box:docker`, ...docker);
  original = await pull(new LayoutSource(layout, { reference: 'box' }));
});
afterAll(async () => {
  await registry?.stop();
  await remove();
});

describe('an image that umoci made', () => {
  it('is whole in its layout', () => {
    const { contents, blobs } = original;
    expect(contents.layers.map(({ compression }) => compression)).toEqual(['gzip', 'gzip']);
    expect(blobs).toEqual(contents.layers.map(({ digest }) => digest));
    expect(JSON.parse(Buffer.from(contents.config).toString()).config).toMatchObject({
      Cmd: ['/bin/busybox'],
      Env: expect.arrayContaining(['A=b']),
    });
  });

  it("comes the same from Debian's registry, by tag and by digest", async () => {
    const byTag = await pull(fromRegistry('team/box:oci', account));
    expect(byTag.contents).toEqual({
      ...original.contents,
      reference: `${registry.host}/team/box:oci`,
    });
    expect(byTag.blobs).toEqual(original.blobs);
    const byDigest = fromRegistry(`team/box@${original.contents.rootDigest}`, account);
    expect((await pull(byDigest)).blobs).toEqual(original.blobs);
  });

  it("comes in Docker's format, too", async () => {
    const { contents, blobs } = await pull(fromRegistry('team/box:docker', account));
    expect(contents.manifestDigest).not.toBe(original.contents.manifestDigest);
    expect(contents.layers[0]?.mediaType).toBe('application/vnd.docker.image.rootfs.diff.tar.gzip');
    expect(blobs).toEqual(original.blobs);
  });

  it('continues in the middle of a layer', async () => {
    const source = fromRegistry('team/box:oci', account);
    const [layer] = (await source.resolve({})).layers;
    if (layer === undefined) throw new Error('no layer');
    const rest = await collect(await source.openBlob(layer, { offset: 100_000 }));
    const whole = await readFile(join(layout, 'blobs/sha256', layer.digest.slice(7)));
    expect(rest.equals(whole.subarray(100_000))).toBe(true);
    await source.close();
  });

  it('comes from archives that skopeo wrote', async () => {
    const docker = join(await directory, 'docker.tar');
    const oci = join(await directory, 'oci.tar');
    await registry.copy(`oci:${layout}:box`, `docker-archive:${docker}:team/box:1`);
    await registry.copy(`oci:${layout}:box`, `oci-archive:${oci}:box`);
    const saved = await pull(new ArchiveSource(docker));
    expect(saved.contents.reference).toBe('docker.io/team/box:1');
    expect(saved.contents.layers.map(({ diffId }) => diffId)).toEqual(
      original.contents.layers.map(({ diffId }) => diffId),
    );
    expect(saved.blobs).toEqual(saved.contents.layers.map(({ diffId }) => diffId));
    expect((await pull(new ArchiveSource(oci))).blobs).toEqual(original.blobs);
  });
});

describe("Debian's registry", () => {
  it('refuses strangers and wrong passwords', async () => {
    const stranger = await rejection(pull(fromRegistry('team/box:oci')));
    expect(stranger).toMatchObject({ code: 'ERR_IMAGE_AUTH' });
    const wrong = { ...account, password: 'other' };
    const refused = await rejection(pull(fromRegistry('team/box:oci', wrong)));
    expect(refused).toMatchObject({ code: 'ERR_IMAGE_AUTH' });
  });

  it('does not know other names, tags and digests', async () => {
    const digest = `sha256:${'0'.repeat(64)}`;
    for (const name of ['team/none:1', 'team/box:none', `team/box@${digest}`]) {
      const error = await rejection(pull(fromRegistry(name, account)));
      expect(error).toMatchObject({ code: 'ERR_IMAGE_NOT_FOUND' });
      expect(error.context.registry).toBe(registry.host);
    }
  });
});

describeGuest('Python of Debian packages', () => {
  const home = useHome('own');
  const name = (): string => `${registry.host}/team/python:3`;
  const program = 'import sys, zlib; print(sys.version_info[0], zlib.crc32(b"embervm"))';

  /** The example, as somebody who has logged in to the registry runs it. */
  async function runExample(...args: string[]) {
    const example = join(packageRoot(), 'examples/run-image.mjs');
    const env = { ...process.env, EMBERVM_HOME: home, DOCKER_CONFIG: await registry.logIn() };
    return promisify(execFile)(process.execPath, [example, name(), ...args], { env });
  }

  beforeAll(async () => {
    const layers = [
      ['libc6', 'zlib1g', 'libexpat1'],
      ['python3-minimal', 'python3.11-minimal', 'libpython3.11-minimal'],
    ];
    const made = await registry.makePackageLayout('python', layers, ['python3', '-c', program]);
    await registry.copy(`oci:${made}:python`, `docker://${name()}`);
  });

  it(
    'runs in a guest, and tells how far the pull is',
    async () => {
      const { stdout, stderr } = await runExample();
      expect(stdout).toBe('3 43121679\n');
      const lines = stderr.trim().split('\n');
      expect(lines[0]).toBe(`${name()}: looking it up`);
      expect(lines.filter((line) => /^[0-9a-f]{12}: [\d.]+ MiB, done$/.test(line))).toHaveLength(2);
      expect(lines.at(-1)).toBe(`${name()}: done`);
    },
    BOOT_TIMEOUT_MS,
  );

  it(
    'runs again without the registry, and says nothing',
    async () => {
      await registry.stop();
      const run = await runExample('python3', '-c', 'print("again")');
      expect(run).toEqual({ stdout: 'again\n', stderr: '' });
    },
    BOOT_TIMEOUT_MS,
  );
});
