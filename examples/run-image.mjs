// Runs a command in a sandbox of an image, which is pulled when it is not there yet, and shows how
// far that is: node run-image.mjs python:3.12 python -V
import { Sandbox, showProgress } from 'embervm';

const [image = 'python:3.12-slim', program, ...args] = process.argv.slice(2);
const sandbox = await Sandbox.create({
  image,
  memoryMib: 128,
  ephemeral: true,
  onProgress: showProgress(process.stderr),
});
try {
  const result = await (program === undefined
    ? sandbox.execDefault()
    : sandbox.exec(program, args));
  process.stdout.write(result.stdout);
  process.stderr.write(result.stderr);
  process.exitCode = result.exitCode ?? 1;
} finally {
  await sandbox.close();
}
