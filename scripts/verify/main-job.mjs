// What a user of the package does first. Copied into an empty project by verify-package.mjs.
import { Sandbox } from 'embervm';

const sandbox = await Sandbox.create({ memoryMib: 128, bootTimeoutMs: 300_000 });
try {
  const { stdout, exitCode } = await sandbox.exec('uname', ['-sm']);
  if (exitCode !== 0 || stdout.trim() !== 'Linux x86_64') {
    throw new Error(`the guest said "${stdout}" and exited with ${exitCode}`);
  }
  console.log(`guest: ${stdout.trim()}`);
} finally {
  await sandbox.close();
}
