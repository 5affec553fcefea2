// Runs a script that nobody has read: without privileges, with limits on time, memory, files and
// output, and with an answer in every case.
import { ExecError, Sandbox } from 'embervm';

const script = process.argv[2] ?? 'echo "I am $(id -un)"; while :; do :; done';
const sandbox = await Sandbox.create({
  memoryMib: 128,
  securityProfile: 'restricted',
  user: 'user',
  ephemeral: true,
});
try {
  const result = await sandbox.shell(script, {
    timeoutMs: 8_000,
    maxBuffer: 64 * 1024,
    rlimits: { nproc: 32, fsize: 16 * 1024 * 1024, nofile: 64, core: 0 },
  });
  console.log(`exit code ${result.exitCode ?? result.signal}`);
  process.stdout.write(result.stdout);
} catch (error) {
  if (!(error instanceof ExecError) || error.code !== 'ERR_EXEC_TIMEOUT') throw error;
  console.log('it took too long; until then it said:');
  process.stdout.write(error.result?.stdout ?? '');
} finally {
  await sandbox.close();
}
