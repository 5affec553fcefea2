// A failure that is the user's to mend: printed as its message alone, without a stack.
export class Failure extends Error {}

/** Runs a script's main function and turns what it throws into an exit code. */
export async function main(run) {
  try {
    await run();
  } catch (error) {
    console.error(error instanceof Failure ? `\n${error.message}` : error);
    process.exitCode = 1;
  }
}
