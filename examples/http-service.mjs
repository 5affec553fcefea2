// A service in front of one sandbox: POST a shell script, get its output as it comes. Every request
// is a process of its own in the guest; a client that goes away takes its process with it.
import { createServer } from 'node:http';
import { pipeline } from 'node:stream/promises';
import { Sandbox } from 'embervm';

const sandbox = await Sandbox.create({ memoryMib: 128, securityProfile: 'restricted' });

const server = createServer(async (request, response) => {
  const execution = sandbox.exec('sh', ['-s'], { stdin: request, timeoutMs: 30_000 });
  response.once('close', () => execution.kill('SIGKILL'));
  try {
    await pipeline(execution.stdout, response);
  } catch (error) {
    // The client has gone, or the process was killed; the next request does not mind.
    console.error(error.code);
  }
});

server.listen(Number(process.env.PORT ?? 0), '127.0.0.1', () => {
  console.log(`http://127.0.0.1:${server.address().port}`);
});

process.once('SIGTERM', async () => {
  server.close();
  server.closeAllConnections();
  await sandbox.stop();
});
