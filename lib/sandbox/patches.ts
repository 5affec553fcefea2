/** Changes to the root of a new sandbox. Links in its paths are followed inside of it, and not out. */
import { lstat } from 'node:fs/promises';
import { posix } from 'node:path';
import type { Patch } from '../config/patches.js';
import { FileError, SandboxError } from '../errors.js';
import type { SandboxFiles } from './files.js';

/** All in their order; `ERR_PATCH_FAILED` says which one could not be made, and why. */
export async function applyPatches(
  files: SandboxFiles,
  patches: readonly Patch[],
  signal: AbortSignal | undefined,
): Promise<void> {
  for (const [index, patch] of patches.entries()) {
    try {
      await apply(files, patch, signal);
    } catch (error) {
      if (!(error instanceof FileError || error instanceof PatchProblem)) throw error;
      throw failed(index, patch, error.message, error);
    }
  }
}

async function apply(
  files: SandboxFiles,
  patch: Patch,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { path } = patch;
  if (patch.type === 'remove') {
    if (await isThere(files, path)) await files.remove(path, { recursive: true, signal });
    return;
  }
  if (patch.type === 'mkdir') {
    await files.mkdir(path, { signal });
    if (patch.mode !== undefined) await files.chmod(path, patch.mode, { signal });
    return;
  }
  if (patch.type === 'append') {
    await makeParent(files, path);
    return files.append(path, patch.content, { signal });
  }
  if (patch.type === 'copyFile' || patch.type === 'copyDir') await requireKind(patch);
  if (await isThere(files, path)) {
    if (patch.replace !== true) {
      throw new PatchProblem(`${path} is there already. Set replace to have it replaced`);
    }
    await files.remove(path, { recursive: true, signal });
  }
  await makeParent(files, path);
  switch (patch.type) {
    case 'text':
      await files.write(path, patch.content, { mode: patch.mode, signal });
      break;
    case 'symlink':
      return files.symlink(patch.target, path, { signal });
    default:
      await files.copyIn(patch.from, path, { signal });
  }
  // Whatever the agent's file mode creation mask is.
  if ('mode' in patch && patch.mode !== undefined) await files.chmod(path, patch.mode, { signal });
}

/** What is wrong where no call has failed yet. */
class PatchProblem extends Error {}

async function requireKind({ type, from }: Patch & { from: string }): Promise<void> {
  const wanted = type === 'copyDir' ? 'directory' : 'file';
  const status = await lstat(from).catch((error: NodeJS.ErrnoException) => {
    throw new PatchProblem(`cannot read ${from}: ${error.code}`);
  });
  if (wanted === 'directory' ? status.isDirectory() : status.isFile()) return;
  throw new PatchProblem(`${from} is no ${wanted}`);
}

async function makeParent(files: SandboxFiles, path: string): Promise<void> {
  await files.mkdir(posix.dirname(path));
}

/** Itself, also where it is a link to nothing. */
async function isThere(files: SandboxFiles, path: string): Promise<boolean> {
  try {
    await files.lstat(path);
    return true;
  } catch (error) {
    if (error instanceof FileError && error.code === 'ERR_FILE_NOT_FOUND') return false;
    throw error;
  }
}

function failed(index: number, { type, path }: Patch, why: string, cause: Error): SandboxError {
  return new SandboxError('ERR_PATCH_FAILED', `patch ${index} (${type} ${path}) failed: ${why}`, {
    cause,
    context: { index, type, path },
  });
}
