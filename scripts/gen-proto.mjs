// Generates lib/rpc/gen/*_pb.ts from proto/. The output is committed, so that neither users nor
// `npm run setup` need protoc; `--check` regenerates it aside and fails when it differs.
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { root } from './lib/root.mjs';

const committed = join(root, 'lib/rpc/gen');

// Plain functions over plain objects: descriptors that are read at run time would hold up the event
// loop for 15 ms when the first sandbox is made, and cost more for every message.
const options = [
  'fileSuffix=_pb',
  'importSuffix=.js',
  'forceLong=bigint',
  'oneof=unions-value',
  'enumsAsLiterals=true',
  'removeEnumPrefix=true',
  'unrecognizedEnum=false',
  'outputJsonMethods=false',
  'outputPartialMethods=false',
  'outputServices=none',
  'exportCommonSymbols=false',
  'annotateFilesWithVersion=false',
];

function generate(directory) {
  mkdirSync(directory, { recursive: true });
  const sources = readdirSync(join(root, 'proto')).filter((name) => name.endsWith('.proto'));
  const result = spawnSync(
    'protoc',
    [
      `--proto_path=${join(root, 'proto')}`,
      `--plugin=protoc-gen-ts_proto=${join(root, 'node_modules/.bin/protoc-gen-ts_proto')}`,
      `--ts_proto_out=${directory}`,
      `--ts_proto_opt=${options.join(',')}`,
      ...sources.sort(),
    ],
    { stdio: 'inherit' },
  );
  if (result.error) {
    throw new Error('protoc is missing. Install it with: apt-get install protobuf-compiler');
  }
  if (result.status !== 0) throw new Error(`protoc failed with status ${result.status}`);
}

function read(directory) {
  return Object.fromEntries(
    readdirSync(directory)
      .sort()
      .map((name) => [name, readFileSync(join(directory, name), 'utf8')]),
  );
}

if (process.argv.includes('--check')) {
  const fresh = mkdtempSync(join(tmpdir(), 'embervm-proto-'));
  try {
    generate(fresh);
    if (JSON.stringify(read(fresh)) !== JSON.stringify(read(committed))) {
      console.error('lib/rpc/gen does not match proto/. Run: npm run gen');
      process.exitCode = 1;
    }
  } finally {
    rmSync(fresh, { recursive: true, force: true });
  }
} else {
  rmSync(committed, { recursive: true, force: true });
  generate(committed);
}
