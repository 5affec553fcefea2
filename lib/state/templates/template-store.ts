/**
 * Templates on disk, `templates/<key>/`: a machine's snapshot, the disk that belongs to it, and a
 * manifest. One appears by a rename when it is complete, so whoever finds one may use it. Nothing
 * here is worth keeping: what is damaged or in the way is removed, and made again by the next.
 */
import { randomUUID } from 'node:crypto';
import { mkdir, open, readdir, readFile, rename, rm, stat, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { ensureDirectory, homeDirectory, stateError } from '../home.js';
import { FileLock } from '../lock.js';
import { UPPER_FILE } from '../upper-disk.js';

const VERSION = 1;
const MANIFEST = 'template.json';
const MACHINE = 'machine';
/** Being made, or on its way out; neither is a key. */
const STAGING = '.new-';
const OUTGOING = '.old-';
const LOCK = '.lock-';
const OWNER_ONLY = 0o700;
const MAX_MANIFEST_BYTES = 4096;
/** The least recently used ones go when there are more. Each is as large as what a guest touched. */
const MAX_TEMPLATES = 16;

/** What a guest said of itself before it was saved. */
export interface TemplateGuest {
  kernelRelease: string;
  agentVersion: string;
}

export interface Template {
  key: string;
  /** For `Machine.restore`. */
  machine: string;
  disk: string;
  guest: TemplateGuest;
}

/** `undefined` when there is none that can be used. */
export async function findTemplate(key: string): Promise<Template | undefined> {
  const directory = join(templatesDirectory(), key);
  const manifest = join(directory, MANIFEST);
  const guest = await readManifest(manifest);
  if (guest === undefined) return undefined;
  const now = new Date();
  // For whoever looks for the least recently used one.
  await utimes(manifest, now, now).catch(() => {});
  return { key, machine: join(directory, MACHINE), disk: join(directory, UPPER_FILE), guest };
}

/** Removes one that turned out to be of no use. */
export async function discardTemplate(key: string): Promise<void> {
  const root = templatesDirectory();
  const outgoing = join(root, `${OUTGOING}${randomUUID()}`);
  try {
    await rename(join(root, key), outgoing);
  } catch {
    // Somebody else did, or nobody can.
    return;
  }
  await rm(outgoing, { recursive: true, force: true });
}

/** A template that is being made. Ends with `commit` or `abandon`. */
export class TemplateDraft {
  readonly #root: string;
  readonly #key: string;
  readonly #lock: FileLock;

  private constructor(root: string, key: string, lock: FileLock) {
    this.#root = root;
    this.#key = key;
    this.#lock = lock;
  }

  /** `undefined` when somebody else makes it, or just has. */
  static async begin(key: string): Promise<TemplateDraft | undefined> {
    const root = templatesDirectory();
    await ensureDirectory(root);
    const lock = await FileLock.tryAcquire(join(root, LOCK + key));
    if (lock === undefined) return undefined;
    const draft = new TemplateDraft(root, key, lock);
    try {
      if ((await findTemplate(key)) !== undefined) {
        await lock.release();
        return undefined;
      }
      // Of a maker that was killed; whoever has the lock is the only one now.
      await rm(draft.#directory, { recursive: true, force: true });
      await mkdir(draft.#directory, { mode: OWNER_ONLY });
      return draft;
    } catch (cause) {
      await lock.release();
      throw stateError('make', draft.#directory, cause);
    }
  }

  get machine(): string {
    return join(this.#directory, MACHINE);
  }

  get disk(): string {
    return join(this.#directory, UPPER_FILE);
  }

  get #directory(): string {
    return join(this.#root, STAGING + this.#key);
  }

  /** Everything else is on the disk by now. To be abandoned where this throws. */
  async commit({ kernelRelease, agentVersion }: TemplateGuest): Promise<void> {
    try {
      const file = await open(join(this.#directory, MANIFEST), 'wx');
      try {
        await file.writeFile(JSON.stringify({ version: VERSION, kernelRelease, agentVersion }));
        await file.sync();
      } finally {
        await file.close();
      }
      const path = join(this.#root, this.#key);
      // One without a manifest that can be read: `begin` found it of no use.
      await rm(path, { recursive: true, force: true });
      await rename(this.#directory, path);
    } catch (cause) {
      throw stateError('write', this.#directory, cause);
    }
    await this.#lock.release();
    await prune(this.#root).catch(() => {});
  }

  async abandon(): Promise<void> {
    await rm(this.#directory, { recursive: true, force: true }).catch(() => {});
    await this.#lock.release();
  }
}

export function templatesDirectory(): string {
  return join(homeDirectory(), 'templates');
}

/** Removes what is least recently used, and what killed makers left. */
async function prune(root: string): Promise<void> {
  const names = await readdir(root);
  const used: { key: string; usedAt: number }[] = [];
  for (const name of names) {
    if (name.startsWith(OUTGOING)) await rm(join(root, name), { recursive: true, force: true });
    if (name.startsWith(STAGING)) await pruneDraft(root, name.slice(STAGING.length));
    if (name.startsWith('.')) continue;
    const usedAt = await stat(join(root, name, MANIFEST)).then(
      ({ mtimeMs }) => mtimeMs,
      () => 0,
    );
    used.push({ key: name, usedAt });
  }
  used.sort((a, b) => b.usedAt - a.usedAt);
  for (const { key } of used.slice(MAX_TEMPLATES)) await discardTemplate(key);
}

async function pruneDraft(root: string, key: string): Promise<void> {
  const lock = await FileLock.tryAcquire(join(root, LOCK + key));
  if (lock === undefined) return;
  try {
    await rm(join(root, STAGING + key), { recursive: true, force: true });
  } finally {
    await lock.release();
  }
}

async function readManifest(path: string): Promise<TemplateGuest | undefined> {
  try {
    if ((await stat(path)).size > MAX_MANIFEST_BYTES) return undefined;
    const { version, kernelRelease, agentVersion } = JSON.parse(await readFile(path, 'utf8'));
    const usable =
      version === VERSION && typeof kernelRelease === 'string' && typeof agentVersion === 'string';
    return usable ? { kernelRelease, agentVersion } : undefined;
  } catch {
    return undefined;
  }
}
