import { randomBytes } from 'node:crypto';
import { mkdir, readdir, readFile, symlink, truncate, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import type { LayerDescriptor } from '../../lib/image/source.js';
import { ArchiveSource, LayoutSource } from '../../lib/image/sources/local.js';
import { useDirectory } from '../helpers/directory.js';
import {
  blobOf,
  descriptor,
  digestOf,
  type FixtureImage,
  makeImage,
  makeIndex,
  OCI,
  type TarFile,
  tarOf,
} from '../helpers/image-fixture.js';
import { collect } from '../helpers/loopback-registry.js';
import { rejection } from '../helpers/rejection.js';
import { resources } from '../helpers/resources.js';

const directory = useDirectory();
/** The files of tests; sockets of the runner come and go. */
const openDescriptors = (): number =>
  resources().descriptors.filter((path) => path.includes('embervm-')).length;

type Source = LayoutSource | ArchiveSource;

async function read(source: Source): Promise<{ digests: string[]; reference: string | null }> {
  try {
    const { layers, reference } = await source.resolve({});
    const digests: string[] = [];
    for (const layer of layers) {
      digests.push(digestOf(await collect(await source.openBlob(layer, {}))));
    }
    return { digests, reference };
  } finally {
    await source.close();
  }
}

const digestsOf = ({ layers }: FixtureImage): string[] => layers.map(({ digest }) => digest);

/** The files of a layout with these images, by their names. */
function layoutFiles(images: readonly [FixtureImage, string | undefined][]): TarFile[] {
  const manifests = images.map(([{ manifest }, name]) =>
    descriptor(
      manifest,
      name === undefined ? {} : { annotations: { 'org.opencontainers.image.ref.name': name } },
    ),
  );
  const blobs = images.flatMap(([{ manifest, config, layers }]) => [manifest, config, ...layers]);
  return [
    ['oci-layout', '{"imageLayoutVersion":"1.0.0"}'],
    ['index.json', JSON.stringify({ schemaVersion: 2, mediaType: OCI.index, manifests })],
    ...blobs.map(({ digest, bytes }): TarFile => [`blobs/${digest.replace(':', '/')}`, bytes]),
  ];
}

async function writeLayout(files: readonly TarFile[]): Promise<string> {
  const path = await directory();
  for (const [name, content] of files) {
    await mkdir(dirname(join(path, name)), { recursive: true });
    await writeFile(join(path, name), content as Uint8Array);
  }
  return path;
}

async function writeArchive(files: readonly TarFile[] | Uint8Array): Promise<string> {
  const path = join(await directory(), 'image.tar');
  await writeFile(path, files instanceof Uint8Array ? files : await tarOf(files));
  return path;
}

/** As `docker save` wrote it. */
function dockerFiles(image: FixtureImage, tags: string[] | null, more: TarFile[] = []): TarFile[] {
  const config = `${image.config.digest.slice(7)}.json`;
  const Layers = image.layers.map((_, n) => `layer${n}/layer.tar`);
  return [
    ...image.layers.map(({ bytes }, n): TarFile => [`layer${n}/layer.tar`, bytes]),
    [config, image.config.bytes],
    ...more,
    ['manifest.json', JSON.stringify([{ Config: config, RepoTags: tags, Layers }])],
  ];
}

describe('an OCI layout', () => {
  it('is read from a directory, without leaving anything open', async () => {
    const image = await makeImage();
    const path = await writeLayout(layoutFiles([[image, undefined]]));
    const before = openDescriptors();
    const source = new LayoutSource(path);
    expect(await source.list()).toEqual([null]);
    expect(await read(source)).toEqual({ digests: digestsOf(image), reference: null });
    expect(openDescriptors()).toBe(before);
  });

  it('has several images, by tag or by name', async () => {
    const [one, two, three] = [await makeImage(), await makeImage(), await makeImage()];
    const path = await writeLayout(
      layoutFiles([
        [one, 'one'],
        [two, 'registry.example/team/two:2'],
        [three, 'team/three'],
      ]),
    );
    const names = [null, 'registry.example/team/two:2', 'docker.io/team/three:latest'];
    const source = new LayoutSource(path);
    try {
      expect(await source.list()).toEqual(names);
    } finally {
      await source.close();
    }
    const ask = (reference: string): ReturnType<typeof read> =>
      read(new LayoutSource(path, { reference }));
    expect(await ask('one')).toEqual({ digests: digestsOf(one), reference: null });
    expect((await ask('registry.example/team/two:2')).digests).toEqual(digestsOf(two));
    expect(await ask('team/three:latest')).toEqual({
      digests: digestsOf(three),
      reference: names[2],
    });
    for (const reference of [undefined, 'four']) {
      const error = await rejection(read(new LayoutSource(path, { reference })));
      expect(error.code).toBe('ERR_IMAGE_NOT_FOUND');
      expect(error.message).toContain('one, registry.example/team/two:2');
    }
  });

  it('without names is one image for several platforms', async () => {
    const arm = await makeImage({ architecture: 'arm64' });
    const amd = await makeImage();
    const path = await writeLayout(
      layoutFiles([
        [arm, undefined],
        [amd, undefined],
      ]),
    );
    expect((await read(new LayoutSource(path))).digests).toEqual(digestsOf(amd));
  });

  it('leads through an index', async () => {
    const image = await makeImage();
    const index = makeIndex([[image.manifest, { os: 'linux', architecture: 'amd64' }]]);
    const files = layoutFiles([[image, undefined]]).filter(([name]) => name !== 'index.json');
    const manifests = [descriptor(index)];
    const path = await writeLayout([
      ...files,
      ['index.json', JSON.stringify({ schemaVersion: 2, manifests })],
      [`blobs/sha256/${index.digest.slice(7)}`, index.bytes],
    ]);
    const source = new LayoutSource(path);
    const contents = await source.resolve({});
    expect(contents.rootDigest).toBe(index.digest);
    expect(contents.manifestDigest).toBe(image.manifest.digest);
    await source.close();
  });

  it('continues a layer from an offset', async () => {
    const image = await makeImage({ layerBytes: 600_000 });
    const source = new LayoutSource(await writeLayout(layoutFiles([[image, undefined]])));
    const [layer] = (await source.resolve({})).layers;
    const bytes = await collect(
      await source.openBlob(layer as LayerDescriptor, { offset: 500_000 }),
    );
    expect(bytes.equals(image.layers[0]?.bytes.subarray(500_000) ?? Buffer.alloc(0))).toBe(true);
    await source.close();
  });

  it.each<[string, string, (path: string, image: FixtureImage) => Promise<void>]>([
    ['is not there', 'ERR_IMAGE_NOT_FOUND', async () => {}],
    [
      'is of another version',
      'ERR_IMAGE_INVALID',
      (path) => writeFile(join(path, 'oci-layout'), '{"imageLayoutVersion":"2"}'),
    ],
    ['has no index', 'ERR_IMAGE_INVALID', (path) => writeFile(join(path, 'index.json'), '{}')],
    [
      'has an empty index',
      'ERR_IMAGE_NOT_FOUND',
      (path) => writeFile(join(path, 'index.json'), '{"manifests":[]}'),
    ],
    [
      'has an endless index',
      'ERR_IMAGE_LIMIT',
      (path) => truncate(join(path, 'index.json'), 2 ** 40),
    ],
    [
      'has a layer that was cut off',
      'ERR_IMAGE_SIZE',
      (path, { layers }) =>
        truncate(join(path, 'blobs/sha256', layers[0]?.digest.slice(7) ?? ''), 100),
    ],
    [
      'has a layer with other bytes',
      'ERR_IMAGE_DIGEST',
      async (path, { layers }) => {
        const file = join(path, 'blobs/sha256', layers[0]?.digest.slice(7) ?? '');
        await writeFile(file, randomBytes((await readFile(file)).length));
      },
    ],
    [
      'has a directory in place of a manifest',
      'ERR_IMAGE_READ',
      async (path, { manifest }) => {
        const other = blobOf({ ...JSON.parse(manifest.bytes.toString()), x: 1 }, OCI.manifest);
        await mkdir(join(path, 'blobs/sha256', other.digest.slice(7)));
        const index = { schemaVersion: 2, manifests: [descriptor(other)] };
        await writeFile(join(path, 'index.json'), JSON.stringify(index));
      },
    ],
  ])('that %s is refused', async (name, code, damage) => {
    const image = await makeImage();
    const path = await writeLayout(layoutFiles([[image, undefined]]));
    await damage(path, image);
    const before = openDescriptors();
    const source = new LayoutSource(name === 'is not there' ? `${path}-not` : path);
    const error = await rejection(read(source));
    expect(error.code).toBe(code);
    expect(JSON.stringify(error.context)).toContain(path);
    expect(openDescriptors()).toBe(before);
  });
});

describe('an archive', () => {
  it('of an OCI layout is read where it is, or unpacked to nowhere', async () => {
    const image = await makeImage();
    const files = layoutFiles([[image, 'registry.example/app:1']]);
    const plain = await writeArchive(files);
    const packed = await writeArchive(gzipSync(await tarOf(files)));
    const scratchDir = await directory();
    const before = openDescriptors();
    for (const path of [plain, packed]) {
      const source = new ArchiveSource(path, { scratchDir });
      const found = await read(source);
      expect(found).toEqual({ digests: digestsOf(image), reference: 'registry.example/app:1' });
    }
    expect(openDescriptors()).toBe(before);
    expect(await readdir(scratchDir)).toEqual([]);
  });

  it('of docker save has a manifest that is always the same', async () => {
    const image = await makeImage();
    const path = await writeArchive(dockerFiles(image, ['app:1', 'registry.example/app:2']));
    const source = new ArchiveSource(path);
    expect(await source.list()).toEqual(['docker.io/library/app:1', 'registry.example/app:2']);
    const contents = await source.resolve({});
    expect(contents.reference).toBe('docker.io/library/app:1');
    expect(contents.configDigest).toBe(image.config.digest);
    expect(contents.layers.map(({ compression }) => compression)).toEqual(['gzip', 'none']);
    expect(contents.layers.map(({ digest }) => digest)).toEqual(digestsOf(image));
    expect((await read(source)).digests).toEqual(digestsOf(image));
    const again = new ArchiveSource(path, { reference: 'registry.example/app:2' });
    expect((await again.resolve({})).manifestDigest).toBe(contents.manifestDigest);
    await again.close();
    const other = new ArchiveSource(path, { reference: 'other' });
    expect((await rejection(read(other))).code).toBe('ERR_IMAGE_NOT_FOUND');
  });

  it('may have links between its layers, and no names', async () => {
    const image = await makeImage({ layers: 2 });
    const files = dockerFiles(image, null).filter(([name]) => name !== 'layer1/layer.tar');
    const linked: TarFile[] = [
      ['./blobs//second', image.layers[1]?.bytes ?? ''],
      ['layer1/layer.tar', { symlink: '../link' }],
      ['link', { symlink: '/blobs/second' }],
      ...files,
    ];
    const source = new ArchiveSource(await writeArchive(linked));
    expect(await read(source)).toEqual({ digests: digestsOf(image), reference: null });
  });

  it('with both forms is read as a layout', async () => {
    const [oci, docker] = [await makeImage(), await makeImage()];
    const files = [...layoutFiles([[oci, 'a']]), ...dockerFiles(docker, ['a:1'])];
    expect((await read(new ArchiveSource(await writeArchive(files)))).digests).toEqual(
      digestsOf(oci),
    );
  });

  it('has names that never meet the file system', async () => {
    const image = await makeImage();
    const secret = join(await directory(), 'secret');
    await writeFile(secret, image.config.bytes);
    const escapes: TarFile[] = [
      [secret, { symlink: secret }],
      ['c', { symlink: secret }],
      ['d', { symlink: '../../../../../../../../../../../../../../etc/passwd' }],
      ['../../outside', 'x'],
      ['loop', { symlink: 'loop2' }],
      ['loop2', { symlink: 'loop' }],
    ];
    for (const Config of [secret, 'c', 'd', 'loop', '../../outside', `../../../..${secret}`]) {
      const manifest = JSON.stringify([{ Config, RepoTags: [], Layers: [] }]);
      const path = await writeArchive([...escapes, ['manifest.json', manifest]]);
      const error = await rejection(read(new ArchiveSource(path)));
      expect(error.code).toBe('ERR_IMAGE_INVALID');
    }
  });

  it.each<[string, string, (image: FixtureImage) => TarFile[]]>([
    [
      'no such layer',
      'ERR_IMAGE_INVALID',
      (image) => dockerFiles(image, []).filter(([name]) => name !== 'layer0/layer.tar'),
    ],
    [
      'a configuration that is not what it is called',
      'ERR_IMAGE_DIGEST',
      (image) =>
        dockerFiles(image, []).map(([name, content]) =>
          /^[a-f0-9]{64}\.json$/.test(name) ? [name, '{}'] : [name, content],
        ),
    ],
    [
      'a manifest that is no list',
      'ERR_IMAGE_INVALID',
      (image) => [...dockerFiles(image, []), ['manifest.json', '{}']],
    ],
    [
      'a manifest without layers',
      'ERR_IMAGE_INVALID',
      (image) => [...dockerFiles(image, []), ['manifest.json', '[{"Config":"a"}]']],
    ],
    [
      'a layer that is not packed and not that of its diff ID',
      'ERR_IMAGE_DIGEST',
      (image) =>
        dockerFiles(image, []).map(([name, content]) =>
          name === 'layer1/layer.tar' ? [name, Buffer.alloc(50_000)] : [name, content],
        ),
    ],
    ['nothing of an image', 'ERR_IMAGE_INVALID', () => [['a', 'b']]],
    ['nothing', 'ERR_IMAGE_INVALID', () => []],
  ])('with %s is refused', async (_name, code, files) => {
    const path = await writeArchive(files(await makeImage()));
    const before = openDescriptors();
    const error = await rejection(read(new ArchiveSource(path)));
    expect(error.code).toBe(code);
    expect(error.context.path).toBe(path);
    expect(openDescriptors()).toBe(before);
  });

  it('that is cut off anywhere is refused, or complete without its end', async () => {
    const image = await makeImage({ layerBytes: 700 });
    const plain = await tarOf(dockerFiles(image, ['a:1']));
    const packed = gzipSync(plain);
    const cuts = [
      1,
      100,
      511,
      512,
      513,
      1024,
      2000,
      4000,
      plain.length - 1100,
      plain.length - 1030,
    ];
    for (const cut of cuts) {
      const path = await writeArchive(plain.subarray(0, cut));
      const error = await rejection(read(new ArchiveSource(path)));
      expect(['ERR_IMAGE_INVALID', 'ERR_IMAGE_NOT_FOUND']).toContain(error.code);
    }
    for (const cut of [5, 100, packed.length - 100, packed.length - 1]) {
      const path = await writeArchive(packed.subarray(0, cut));
      expect((await rejection(read(new ArchiveSource(path)))).code).toBe('ERR_IMAGE_INVALID');
    }
    const bare = await writeArchive(plain.subarray(0, plain.length - 1024));
    expect((await read(new ArchiveSource(bare))).digests).toEqual(digestsOf(image));
  });

  it('with damaged headers never does worse than to be refused', async () => {
    const image = await makeImage({ layerBytes: 300 });
    const plain = await tarOf(layoutFiles([[image, 'a']]));
    const sizes = [
      '-0000000001',
      '77777777777',
      'zzzzzzzzzzz',
      '           ',
      '\x80\0\0\0\0\0\0\0\0\0\x7f',
    ];
    for (const size of sizes) {
      const bytes = Buffer.from(plain);
      bytes.write(size, 124, 'latin1');
      bytes.write('        ', 148, 'latin1');
      const sum = bytes.subarray(0, 512).reduce((total, byte) => total + byte, 0);
      bytes.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
      const outcome = await read(new ArchiveSource(await writeArchive(bytes))).catch((e) => e.code);
      expect([typeof outcome === 'string' ? outcome : '']).toEqual([
        expect.stringMatching(/^ERR_IMAGE_(INVALID|NOT_FOUND)$/),
      ]);
    }
  });

  it('may not have more entries than the limit', async () => {
    const entry = (await tarOf([['f', '']])).subarray(0, 512);
    const archive = await writeArchive(Buffer.concat(Array(65_537).fill(entry)));
    const error = await rejection(read(new ArchiveSource(archive)));
    expect(error.code).toBe('ERR_IMAGE_LIMIT');
  });

  it('of another packing says which, and what is no file is not waited for', async () => {
    const zstd = await writeArchive(Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0, 0, 0, 0]));
    expect((await rejection(read(new ArchiveSource(zstd)))).message).toContain('zstd');
    const error = await rejection(read(new ArchiveSource(await directory())));
    expect(error.code).toBe('ERR_IMAGE_READ');
    const link = join(await directory(), 'link');
    await symlink('/dev/zero', link);
    expect((await rejection(read(new ArchiveSource(link)))).code).toBe('ERR_IMAGE_READ');
    const none = await rejection(read(new ArchiveSource('/nowhere/image.tar')));
    expect(none).toMatchObject({ code: 'ERR_IMAGE_NOT_FOUND', errno: 'ENOENT' });
  });

  it('can be given up', async () => {
    const path = await writeArchive(dockerFiles(await makeImage(), []));
    const source = new ArchiveSource(path);
    const aborted = { signal: AbortSignal.abort() };
    expect((await rejection(source.resolve(aborted))).code).toBe('ERR_ABORTED');
    expect((await source.resolve({})).layers).toHaveLength(2);
    await source.close();
  });
});
