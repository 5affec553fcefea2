import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseChallenges } from '../../lib/image/registry/challenge.js';

const plain = (headers: string[]): [string, Record<string, string>][] =>
  parseChallenges(headers).map(({ scheme, parameters }) => [
    scheme,
    Object.fromEntries(parameters),
  ]);

describe('challenges', () => {
  it.each<[string, [string, Record<string, string>][]]>([
    ['Basic realm="a"', [['basic', { realm: 'a' }]]],
    ['Basic', [['basic', {}]]],
    [
      'Bearer realm="https://t.example/token",service="r.example",scope="repository:a/b:pull,push"',
      [
        [
          'bearer',
          {
            realm: 'https://t.example/token',
            service: 'r.example',
            scope: 'repository:a/b:pull,push',
          },
        ],
      ],
    ],
    ['BEARER Realm = "x" , service = y', [['bearer', { realm: 'x', service: 'y' }]]],
    [
      'Bearer realm="x", Basic realm="y"',
      [
        ['bearer', { realm: 'x' }],
        ['basic', { realm: 'y' }],
      ],
    ],
    [
      'Negotiate, Basic realm="y"',
      [
        ['negotiate', {}],
        ['basic', { realm: 'y' }],
      ],
    ],
    [
      'Negotiate abc==, Basic realm="y"',
      [
        ['negotiate', {}],
        ['basic', { realm: 'y' }],
      ],
    ],
    [', , Basic realm="a",,', [['basic', { realm: 'a' }]]],
    ['Bearer realm="a\\"b\\\\c"', [['bearer', { realm: 'a"b\\c' }]]],
    ['Bearer realm="a", realm="b"', [['bearer', { realm: 'a' }]]],
    ['Bearer realm="a', [['bearer', {}]]],
    ['Bearer realm="a" trailing', [['bearer', { realm: 'a' }]]],
    ['"quoted" first', []],
    ['', []],
  ])('%s', (header, expected) => {
    expect(plain([header])).toEqual(expected);
  });

  it('come from several headers', () => {
    expect(plain(['Bearer realm="a"', 'Basic realm="b"'])).toHaveLength(2);
  });

  it('survive anything, quickly', () => {
    const piece = fc.constantFrom(
      'Bearer',
      'realm',
      '=',
      '"',
      '\\',
      ',',
      ' ',
      'a',
      '\t',
      '==',
      'é',
    );
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          fc.array(piece, { maxLength: 200 }).map((p) => p.join('')),
        ),
        (text) => {
          for (const { scheme } of parseChallenges([text]))
            expect(scheme).toBe(scheme.toLowerCase());
        },
      ),
      { numRuns: 2000 },
    );
    const start = performance.now();
    for (const text of [
      'a,'.repeat(4000),
      '"\\'.repeat(4000),
      `B a="${'\\x'.repeat(4000)}`,
      'a='.repeat(4000),
      ' '.repeat(8000),
    ]) {
      expect(parseChallenges([text]).length).toBeLessThanOrEqual(16);
    }
    expect(performance.now() - start).toBeLessThan(500);
  });

  it('are given back as they were written', () => {
    const value = fc.string({ unit: 'grapheme-ascii', maxLength: 30 });
    fc.assert(
      fc.property(
        fc.dictionary(fc.stringMatching(/^[a-z]{1,8}$/), value, { maxKeys: 5, minKeys: 1 }),
        (fields) => {
          const text = Object.entries(fields)
            .map(([key, text]) => `${key}="${text.replace(/["\\]/g, '\\$&')}"`)
            .join(', ');
          expect(plain([`Bearer ${text}`])).toEqual([['bearer', { ...fields }]]);
        },
      ),
    );
  });
});
