// The second half of `npm run quickstart`: boots a sandbox in this process, runs commands in it,
// and says where the time went.
import { Failure, main } from './lib/failure.mjs';
import { checkKvm } from './lib/host.mjs';

const OPTIONS = { memoryMib: 128, bootTimeoutMs: 300_000 };
const COMMANDS = [
  ['sh', '-c', 'echo "Hello from PID $$ of a microVM with $(nproc) CPU, as $(whoami)"'],
  ['uname', '-a'],
];

async function run(sandbox, [file, ...args]) {
  const result = await sandbox.exec(file, args);
  console.log(`$ ${[file, ...args].join(' ')}`);
  process.stdout.write(result.stdout);
  process.stderr.write(result.stderr);
  console.log(`  exit code ${result.exitCode}, ${result.durationMs.toFixed(0)} ms\n`);
  if (!result.success) throw new Failure(`${file} failed with exit code ${result.exitCode}.`);
}

function printReport(report) {
  const width = 34;
  const row = (title, ms) =>
    console.log(`  ${title.padEnd(width)} ${ms.toFixed(1).padStart(9)} ms`);
  console.log('Where the time went:');
  for (const { stage, durationMs } of report.stages) row(stage, durationMs);
  row('total', report.totalMs);
  console.log('Of that, as the machine sees it:');
  row('create call to first instruction', report.machineSetupMs);
  const { agentStartedMs, agentDialledMs } = report.guest;
  if (agentStartedMs !== null) row('guest clock, agent starts', agentStartedMs);
  if (agentDialledMs !== null) row('guest clock, agent is ready', agentDialledMs);
}

await main(async () => {
  const problem = checkKvm();
  if (problem !== undefined) throw new Failure(problem);
  const { probeHost, Sandbox } = await import('../dist/index.js');
  const { kvm, cpus } = probeHost();
  console.log(
    `\nBooting a microVM in this Node process (pid ${process.pid}, ${kvm} KVM, ${cpus} CPUs)…\n`,
  );
  const sandbox = await Sandbox.create(OPTIONS);
  try {
    for (const command of COMMANDS) await run(sandbox, command);
    printReport(sandbox.bootReport());
  } finally {
    await sandbox.close();
  }
  const another = await Sandbox.create(OPTIONS);
  try {
    const { start, totalMs } = another.bootReport();
    const how = start === 'warm' ? 'from what the first one left' : 'booted again';
    console.log(`\nAnother one, ${how}: ${totalMs.toFixed(0)} ms.`);
  } finally {
    await another.close();
  }
});
