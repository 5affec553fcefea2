/** The error of a promise that must fail. */
import { EmbervmError } from '../../lib/errors.js';

export async function rejection<Type extends EmbervmError = EmbervmError>(
  promise: PromiseLike<unknown>,
): Promise<Type> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof EmbervmError) return error as Type;
    throw new Error('rejected with something that is not ours', { cause: error });
  }
  throw new Error('it was fulfilled, and should have been rejected');
}

/** The error of a call that must throw. */
export function thrown<Type extends EmbervmError = EmbervmError>(run: () => unknown): Type {
  try {
    run();
  } catch (error) {
    if (error instanceof EmbervmError) return error as Type;
    throw new Error('threw something that is not ours', { cause: error });
  }
  throw new Error('it returned, and should have thrown');
}
