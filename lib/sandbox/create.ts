/** Sandboxes that begin: new ones, and ones that are started again. */
import { randomUUID } from 'node:crypto';
import { stat } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { withAbsolutePath } from '../config/image.js';
import { memoryMounts, mountPath, withAbsoluteSources } from '../config/mounts.js';
import {
  parseSandboxName,
  parseSandboxOptions,
  parseStartOptions,
  type ResolvedSandboxOptions,
  type SandboxOptions,
  storedOptions,
} from '../config/sandbox.js';
import { inheritOptions, refuseWithSnapshot } from '../config/snapshot.js';
import { abortedError, ConfigError, EmbervmError } from '../errors.js';
import { stateError } from '../state/home.js';
import { syncPin } from '../state/image-pin.js';
import { LogWriter } from '../state/logs/writer.js';
import { generateName } from '../state/names.js';
import { observe } from '../state/observe.js';
import { type ConfigRecord, creationTime, newConfig } from '../state/records.js';
import { notFound, SandboxDir } from '../state/sandbox-dir.js';
import { openSnapshot } from '../state/snapshots/store.js';
import { StateWriter } from '../state/state-writer.js';
import { Boot, type BootPlace } from './boot.js';
import type { SandboxCore } from './core.js';
import type { SandboxMounts } from './mounts.js';
import { notOwner, register, runningHere, unregister, upperPath } from './registry.js';
import {
  pinRoot,
  rootAgain,
  rootIn,
  rootOf,
  type SandboxRoot,
  withImageConfig,
} from './sandbox-image.js';
import { stopResult } from './stop-result.js';
import { type BootAssets, findBootAssets, withBase } from './vm/boot-assets.js';
import { BootClock } from './vm/boot-clock.js';
import { coldFactory, diskFactory, templateFactory } from './vm/factories.js';
import { type SavedSandbox, savedFactory } from './vm/saved-sandbox.js';
import { bootCpus } from './vm/template-key.js';
import type { VmFactory } from './vm/vm-factory.js';

const LOGS = 'logs';

/** Boots a new sandbox and waits until its root is set up. Leaves nothing when it fails. */
export async function createSandbox(input: unknown): Promise<SandboxCore> {
  const clock = new BootClock();
  clock.begin('validate');
  refuseWithSnapshot(input);
  const options = parseSandboxOptions(input);
  const given = (input ?? {}) as SandboxOptions;
  if (options.snapshot === undefined) return createNew(options, given, clock);
  const opened = await openSnapshot(options.snapshot);
  try {
    return await createFrom({ what: 'snapshot', ...opened.manifest, ...opened }, given, clock);
  } finally {
    await opened.release();
  }
}

async function createNew(
  options: ResolvedSandboxOptions,
  input: SandboxOptions,
  clock: BootClock,
): Promise<SandboxCore> {
  if (options.image === undefined) return create(factoryOf(options), options, input, clock);
  clock.onProgress = options.onProgress;
  clock.begin('image');
  const find = (): Promise<SandboxRoot | undefined> =>
    rootOf(options, (event) => clock.onProgress?.(event));
  const root = await find();
  const merged = withImageConfig(input, root?.config);
  const cpus = cpusToBring(options);
  const parsed = parseSandboxOptions(merged);
  return create(factoryOf(options), parsed, merged, clock, { root, find, cpus });
}

/** A copy that runs, of a sandbox that runs or is paused. */
export async function forkSandbox(origin: SandboxCore, input: unknown): Promise<SandboxCore> {
  const clock = new BootClock();
  clock.begin('validate');
  const { signal, snapshot } = parseSandboxOptions(input);
  if (snapshot !== undefined) throw snapshotOfFork();
  if (signal?.aborted) throw abortedError(signal, 'forking a sandbox');
  const { saved, release } = await origin.saving.forkPoint();
  try {
    return await createFrom(saved, (input ?? {}) as SandboxOptions, clock);
  } finally {
    await release();
  }
}

async function createFrom(
  saved: SavedSandbox,
  input: SandboxOptions,
  clock: BootClock,
): Promise<SandboxCore> {
  const merged = inheritOptions(saved.kind, saved.options, input, saved.what);
  const options = parseSandboxOptions(merged);
  const find = (): Promise<SandboxRoot | undefined> => rootAgain(saved.image, options.image);
  const root = await find();
  const goesOn = saved.kind === 'memory';
  const before = goesOn ? memoryMounts(saved.options.mounts) : {};
  const mounted = new Set(
    Object.keys(before).flatMap((path) =>
      input.mounts?.[path] === undefined ? [mountPath(path)] : [],
    ),
  );
  const cpus = goesOn ? input.cpus : cpusToBring(options);
  return create(savedFactory(saved), options, merged, clock, {
    root,
    find,
    mounted,
    hasInit: goesOn,
    cpus,
  });
}

/** A root, and how it is found again where somebody removes it before the sandbox holds it. */
interface ChosenRoot {
  root: SandboxRoot | undefined;
  find: () => Promise<SandboxRoot | undefined>;
  /** Paths at which its memory has a mount already. */
  mounted?: ReadonlySet<string>;
  /** Its memory has the init, if it has one. */
  hasInit?: boolean;
  /** To have on line; `undefined`: those that are. */
  cpus: number | undefined;
}

/** `input` is what the options were parsed from. */
async function create(
  factory: VmFactory,
  options: ResolvedSandboxOptions,
  input: SandboxOptions,
  clock: BootClock,
  chosen?: ChosenRoot,
): Promise<SandboxCore> {
  clock.onProgress = options.onProgress;
  if (options.signal?.aborted) throw abortedError(options.signal, 'creating a sandbox');
  const name = options.name ?? generateName();

  clock.begin('assets');
  const found = await findBootAssets(options.kernel.path, chosen?.root?.base);
  if (options.replaceMs !== undefined) {
    // What is replaced is not stopped for mounts that cannot be; it may have the volumes itself.
    const others = options.mounts.filter(({ source }) => source.kind !== 'volume');
    await prepareMounts({ mounts: others }, name);
    await makeWay(name, options.replaceMs);
  }
  const mounts = await prepareMounts(options, name);

  clock.begin('disk');
  const directory = await SandboxDir.claim(name).catch(async (error: unknown) => {
    await mounts?.release();
    throw error;
  });
  let recorded = Promise.resolve();
  try {
    const root = chosen && (await pinRoot(directory.path, chosen.root, chosen.find));
    const assets = root === undefined ? found : withBase(found, root.base);
    const { ephemeral } = options;
    const config = newConfig({
      id: randomUUID(),
      name,
      createdAt: creationTime(),
      ephemeral,
      labels: options.labels,
      options: storedOptions(withAbsolutePaths(input)),
    });
    const state = new StateWriter(directory.records, name);
    // On disk long before the guest is ready, and nobody has to wait for it.
    recorded = record(directory, state, config);
    recorded.catch(() => {});
    const place = {
      ...placeOf(config, directory, state, options, root),
      mounts,
      mounted: chosen?.mounted,
      hasInit: chosen?.hasInit,
      cpus: chosen === undefined ? cpusToBring(options) : chosen.cpus,
    };
    return await boot(factory, options, clock, assets, place, recorded);
  } catch (error) {
    await mounts?.release();
    await recorded.catch(() => {});
    await directory.remove().catch(() => {});
    throw error;
  }
}

function snapshotOfFork(): ConfigError {
  return new ConfigError(
    'ERR_INVALID_CONFIG',
    'invalid sandbox options: snapshot has no meaning with a fork: leave it out',
    { context: { option: 'snapshot' } },
  );
}

/** Boots a sandbox that has ended, with the disk that it had. */
export async function startSandbox(nameInput: unknown, input: unknown): Promise<SandboxCore> {
  const clock = new BootClock();
  clock.begin('validate');
  const name = parseSandboxName(nameInput);
  const start = parseStartOptions(input);
  if (start.signal?.aborted) throw abortedError(start.signal, `starting "${name}"`);
  // One that is ending gives its name back in a moment.
  await runningHere(name);
  const directory = await SandboxDir.open(name);
  let state: StateWriter | undefined;
  let mounts: SandboxMounts | undefined;
  try {
    const config = await directory.records.config(name);
    if (config === undefined) throw notFound(name);
    const previous = await directory.records.state(name);
    const options = parseSandboxOptions({ ...config.options, name, ...start });
    clock.onProgress = options.onProgress;

    clock.begin('assets');
    const root = await rootIn(directory.path, options.image);
    const assets = await findBootAssets(options.kernel.path, root?.base);

    mounts = await prepareMounts(options, name);

    const grow = previous?.firstReadyAt == null;
    await requireDisk(upperPath(directory.path));
    state = new StateWriter(directory.records, name, previous);
    state.set('starting');
    const cpus = cpusToBring(options);
    const place = { ...placeOf(config, directory, state, options, root), mounts, cpus };
    return await boot(
      diskFactory({ grow }, options.warmStart ?? 'auto'),
      options,
      clock,
      assets,
      place,
      state.flush(),
    );
  } catch (error) {
    await mounts?.release();
    if (state !== undefined) await settle(state, name, error);
    await directory.release();
    throw error;
  }
}

/** What a mount is of may be missing: better to know before anything boots. */
async function prepareMounts(
  { mounts }: Pick<ResolvedSandboxOptions, 'mounts'>,
  name: string,
): Promise<SandboxMounts | undefined> {
  if (mounts.length === 0) return undefined;
  const module = await import('./mounts.js');
  return module.SandboxMounts.prepare(mounts, name);
}

/** `undefined` where the guest boots with as many as are asked for. */
function cpusToBring(options: ResolvedSandboxOptions): number | undefined {
  return bootCpus(options) < options.cpus ? options.cpus : undefined;
}

function factoryOf({ vmFactory, warmStart }: ResolvedSandboxOptions): VmFactory {
  if (vmFactory !== undefined) return vmFactory as VmFactory;
  return warmStart === 'off' ? coldFactory : templateFactory;
}

function placeOf(
  config: ConfigRecord,
  directory: SandboxDir,
  state: StateWriter,
  options: ResolvedSandboxOptions,
  root: SandboxRoot | undefined,
): BootPlace {
  const { id, name } = config;
  const diskPath = upperPath(directory.path);
  const image = root?.pin;
  return { id, name, directory, state, diskPath, image, logs: logsOf(directory, options) };
}

async function boot(
  factory: VmFactory,
  options: ResolvedSandboxOptions,
  clock: BootClock,
  assets: BootAssets,
  place: BootPlace,
  recorded: Promise<void>,
): Promise<SandboxCore> {
  const { path } = place.directory;
  const attempt = new Boot(options, clock, assets, place);
  try {
    const core = await attempt.run(factory, recorded, async () => {
      unregister(path);
      await place.mounts?.release();
    });
    register(path, core);
    return core;
  } catch (error) {
    // What failed first is what the caller has to know.
    await attempt.undo().catch(() => {});
    place.logs?.system('error', (error as Error).message);
    await place.logs?.close();
    throw error;
  }
}

function logsOf(directory: SandboxDir, options: ResolvedSandboxOptions): LogWriter | undefined {
  if (options.quietLogs) return undefined;
  return new LogWriter(join(directory.path, LOGS), options.logLevel);
}

/** The state first: what has a configuration has a state. */
async function record(
  directory: SandboxDir,
  state: StateWriter,
  config: ConfigRecord,
): Promise<void> {
  state.set('starting');
  await state.flush();
  await directory.records.saveConfig(config);
  if (config.ephemeral) return;
  await syncPin(directory.path);
  await directory.keep();
}

/** What is left of a start that failed. */
async function settle(state: StateWriter, name: string, error: unknown): Promise<void> {
  const aborted = error instanceof EmbervmError && error.code === 'ERR_ABORTED';
  const result = stopResult(name, aborted ? 'killed' : 'boot_failed');
  state.set(result.status, result);
  await state.flush().catch(() => {});
}

/** Ends and removes the sandbox that has the name. */
async function makeWay(name: string, timeoutMs: number): Promise<void> {
  const here = await runningHere(name);
  if (here !== undefined) await here.lifecycle.stop({ timeoutMs });
  await removeSandbox(name, 'replace').catch((error: unknown) => {
    if (!(error instanceof EmbervmError && error.code === 'ERR_SANDBOX_NOT_FOUND')) throw error;
  });
}

/** Removes a sandbox that has ended, with its disk and its logs. */
export async function removeSandbox(nameInput: unknown, what = 'remove'): Promise<void> {
  const name = parseSandboxName(nameInput);
  await runningHere(name);
  let directory: SandboxDir;
  try {
    directory = await SandboxDir.openAny(name);
  } catch (error) {
    const running = error instanceof EmbervmError && error.code === 'ERR_SANDBOX_STILL_RUNNING';
    if (!running || what === 'remove') throw error;
    const seen = await observe(name);
    throw notOwner(name, seen?.state.pid ?? 0, what);
  }
  const known = await directory.isKnown();
  await directory.remove();
  if (!known) throw notFound(name);
}

async function requireDisk(path: string): Promise<void> {
  try {
    await stat(path);
  } catch (error) {
    throw stateError('open the disk', path, error);
  }
}

/** The process that starts it again may have another working directory. */
function withAbsolutePaths(options: SandboxOptions): SandboxOptions {
  const { kernel, image, mounts } = options;
  return {
    ...options,
    ...(kernel?.path === undefined ? {} : { kernel: { ...kernel, path: resolve(kernel.path) } }),
    ...(image === undefined ? {} : { image: withAbsolutePath(image) }),
    ...(mounts === undefined ? {} : { mounts: withAbsoluteSources(mounts) }),
  };
}
