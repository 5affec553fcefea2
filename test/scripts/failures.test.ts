import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import {
  doctestFailures,
  fuzzFailure,
  listFailures,
  vitestFailures,
} from '../../scripts/test/failures.mjs';

const root = fileURLToPath(new URL('../..', import.meta.url));

/** As doctest 2.4 prints it, in colour. */
const DOCTEST = `native/base/size.h:8:61: runtime error: signed integer overflow: 2147483647 + 1
===============================================================================
/src/native/test/a_test.cc:5:
TEST CASE:  fails twice

\u001b[0m/src/native/test/a_test.cc:6: \u001b[1;31mERROR: \u001b[0mCHECK( a == 2 ) is NOT correct!
  values: CHECK( 1 == 2 )

/src/native/test/a_test.cc:7: ERROR: CHECK( a == 3 ) is NOT correct!

===============================================================================
/src/native/test/a_test.cc:9:
TEST CASE:  needs it
  in a part

/src/native/test/a_test.cc:10: FATAL ERROR: REQUIRE( a == 3 ) is NOT correct!

===============================================================================
[doctest] test cases: 3 | 1 passed | 2 failed | 0 skipped
==7==ERROR: AddressSanitizer: heap-use-after-free on address 0x602
`;

describe('what failed', () => {
  it('is the first check of each test case, and what a sanitizer found', () => {
    expect(doctestFailures(DOCTEST)).toEqual([
      'native/base/size.h:8:61: runtime error: signed integer overflow: 2147483647 + 1',
      'fails twice: CHECK( a == 2 ) is NOT correct! (a_test.cc:6)',
      'needs it: REQUIRE( a == 3 ) is NOT correct! (a_test.cc:10)',
      'ERROR: AddressSanitizer: heap-use-after-free on address 0x602',
    ]);
    expect(doctestFailures('[doctest] test cases: 3 | 3 passed | 0 failed\n')).toEqual([]);
  });

  it('is a target with the summary of the fuzzer, or its last words', () => {
    expect(fuzzFailure('queue_fuzz', 'INFO: x\nSUMMARY: libFuzzer: timeout\nmore\n')).toBe(
      'queue_fuzz: SUMMARY: libFuzzer: timeout',
    );
    expect(fuzzFailure('agent', 'cc: no such file\n')).toBe('agent: cc: no such file');
  });

  it('is a test of vitest, or a file that did not load', () => {
    const record = {
      testResults: [
        {
          name: join(root, 'test/a.test.ts'),
          status: 'failed',
          message: '',
          assertionResults: [
            { fullName: 'a passes', status: 'passed', failureMessages: [] },
            { fullName: 'a fails', status: 'failed', failureMessages: ['Error: no\n    at x'] },
          ],
        },
        {
          name: join(root, 'test/b.test.ts'),
          status: 'failed',
          message: 'Cannot find module\nmore',
          assertionResults: [],
        },
      ],
    };
    expect(vitestFailures(record)).toEqual([
      'test/a.test.ts: a fails: Error: no',
      'test/b.test.ts: Cannot find module',
    ]);
  });

  it('fits the end of a log', () => {
    const failures = Array.from({ length: 500 }, (_, index) => `${index} ${'x'.repeat(1000)}`);
    const lines = listFailures([{ name: 'native', failures }]);
    expect(lines.length).toBeLessThan(90);
    expect(lines.every((line: string) => line.length <= 200)).toBe(true);
    expect(lines[0]).toMatch(/^native: 0 x+…$/);
    expect(lines.at(-1)).toBe('… and 420 more');
  });
});
