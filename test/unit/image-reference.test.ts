import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ImageError } from '../../lib/errors.js';
import { apiHostOf, credentialKeyOf, parseReference } from '../../lib/image/reference.js';

const hex = '0123456789abcdef'.repeat(4);
const digest = `sha256:${hex}`;

function refusalOf(text: string): ImageError {
  try {
    parseReference(text);
  } catch (error) {
    expect(error).toBeInstanceOf(ImageError);
    expect(error).toMatchObject({ code: 'ERR_IMAGE_REFERENCE' });
    return error as ImageError;
  }
  throw new Error(`${text} was accepted`);
}

describe('names that are read as Docker reads them', () => {
  it.each([
    ['python', 'docker.io', 'library/python', 'latest', null, 'python:latest'],
    ['python:3.12', 'docker.io', 'library/python', '3.12', null, 'python:3.12'],
    ['bitnami/redis', 'docker.io', 'bitnami/redis', 'latest', null, 'bitnami/redis:latest'],
    ['docker.io/python', 'docker.io', 'library/python', 'latest', null, 'python:latest'],
    ['docker.io/library/python', 'docker.io', 'library/python', 'latest', null, 'python:latest'],
    ['index.docker.io/a/b:c', 'docker.io', 'a/b', 'c', null, 'a/b:c'],
    ['localhost/a', 'localhost', 'a', 'latest', null, 'localhost/a:latest'],
    ['localhost:5000', 'docker.io', 'library/localhost', '5000', null, 'localhost:5000'],
    ['localhost:5000/a', 'localhost:5000', 'a', 'latest', null, 'localhost:5000/a:latest'],
    ['localhost:5000/a:5', 'localhost:5000', 'a', '5', null, 'localhost:5000/a:5'],
    ['Host/a', 'Host', 'a', 'latest', null, 'Host/a:latest'],
    ['127.0.0.1/a', '127.0.0.1', 'a', 'latest', null, '127.0.0.1/a:latest'],
    ['[::1]:5000/a', '[::1]:5000', 'a', 'latest', null, '[::1]:5000/a:latest'],
    ['[fe80::1]/a/b', '[fe80::1]', 'a/b', 'latest', null, '[fe80::1]/a/b:latest'],
    ['reg.example/a/b/c', 'reg.example', 'a/b/c', 'latest', null, 'reg.example/a/b/c:latest'],
    ['a.b/c', 'a.b', 'c', 'latest', null, 'a.b/c:latest'],
    [`python@${digest}`, 'docker.io', 'library/python', null, digest, `python@${digest}`],
    [`a:1@${digest}`, 'docker.io', 'library/a', '1', digest, `a:1@${digest}`],
    [`h:1/a:b@${digest}`, 'h:1', 'a', 'b', digest, `h:1/a:b@${digest}`],
    [
      'a__b/c-d/e--f/g.h',
      'docker.io',
      'a__b/c-d/e--f/g.h',
      'latest',
      null,
      'a__b/c-d/e--f/g.h:latest',
    ],
    ['a:V1.0_x-y', 'docker.io', 'library/a', 'V1.0_x-y', null, 'a:V1.0_x-y'],
    ['a:_x', 'docker.io', 'library/a', '_x', null, 'a:_x'],
    [
      `a:${'t'.repeat(128)}`,
      'docker.io',
      'library/a',
      't'.repeat(128),
      null,
      `a:${'t'.repeat(128)}`,
    ],
    [
      `h.i/${'p'.repeat(255)}`,
      'h.i',
      'p'.repeat(255),
      'latest',
      null,
      `h.i/${'p'.repeat(255)}:latest`,
    ],
    ['docker.io/a.b/c', 'docker.io', 'a.b/c', 'latest', null, 'docker.io/a.b/c:latest'],
    [
      `docker.io/library/${hex}`,
      'docker.io',
      `library/${hex}`,
      'latest',
      null,
      `docker.io/library/${hex}:latest`,
    ],
  ])('%s', (text, registry, repository, tag, expectedDigest, familiar) => {
    const found = parseReference(text);
    expect(found).toMatchObject({ registry, repository, tag, digest: expectedDigest, familiar });
    expect(parseReference(found.canonical)).toEqual(found);
    expect(parseReference(found.familiar)).toEqual(found);
  });
});

describe('what is no name', () => {
  it.each([
    ['', /empty/],
    ['Python', /lower case/],
    ['a/Python', /lower case/],
    ['h.i/A', /lower case/],
    [':tag', /repository is missing/],
    ['a:', /tag/],
    ['a:-x', /tag/],
    ['a:.x', /tag/],
    ['a:b:c', /tag/],
    [`a:${'t'.repeat(129)}`, /tag/],
    ['a:ä', /tag/],
    ['a@', /digest/],
    ['a@sha256:abc', /digest/],
    [`a@${digest.toUpperCase()}`, /digest/],
    [`a@sha256:${hex}0`, /digest/],
    [`a@sha512:${hex}${hex}`, /digest/],
    [`a@${digest}@${digest}`, /digest/],
    [`${hex}`, /image ID/],
    ['a//b', /empty/],
    ['/a', /empty/],
    ['a/', /empty/],
    ['h.i/', /missing/],
    ['a..b', /not made of/],
    ['a___b', /not made of/],
    ['-a', /not made of/],
    ['a-', /not made of/],
    ['a._b', /not made of/],
    ['a b', /not made of/],
    ['a\n', /not made of/],
    ['a/b\u0000', /not made of/],
    ['a/../b', /not made of/],
    ['h.i/a?b=c', /not made of/],
    ['h.i/a%2fb', /not made of/],
    ['-h.i/a', /host/],
    ['h..i/a', /host/],
    ['h.i:/a', /host/],
    ['h.i:0/a', /port/],
    ['h.i:65536/a', /port/],
    ['h.i:x/a', /host/],
    ['[::1/a', /host/],
    ['user:pass@h.i/a', /digest/],
    ['https://h.i/a', /scheme/],
    [`h.i/${'p'.repeat(256)}`, /255/],
    ['a'.repeat(2000), /1024/],
  ])('%j', (text, why) => {
    expect(refusalOf(text).message).toMatch(why);
  });

  it('is not repeated at length', () => {
    expect(refusalOf('ä'.repeat(1024)).message.length).toBeLessThan(300);
  });
});

describe('any text', () => {
  const part = fc.string({ unit: fc.constantFrom(...'abAB09._-/:@[]%\u0000 '), maxLength: 40 });

  it('is a name that reads the same again, or refused with a type', () => {
    fc.assert(
      fc.property(fc.oneof(part, fc.string(), fc.constant(digest), fc.webUrl()), part, (a, b) => {
        for (const text of [a, `${a}/${b}`, `${a}:${b}`, `${a}@${digest}`]) {
          let found: ReturnType<typeof parseReference>;
          try {
            found = parseReference(text);
          } catch (error) {
            expect(error).toMatchObject({ code: 'ERR_IMAGE_REFERENCE' });
            continue;
          }
          expect(parseReference(found.canonical)).toEqual(found);
          expect(parseReference(found.familiar)).toEqual(found);
          // Safe in a path: nothing ends it, nothing leads up.
          expect(found.repository).toMatch(/^[a-z0-9][a-z0-9._/-]*$/);
          expect(found.repository.split('/')).not.toContain('..');
        }
      }),
      { numRuns: 2000 },
    );
  });
});

it('only the default registry has an API host and a credential key of another name', () => {
  expect(apiHostOf('docker.io')).toBe('registry-1.docker.io');
  expect(apiHostOf('h.i:5')).toBe('h.i:5');
  expect(credentialKeyOf('docker.io')).toBe('https://index.docker.io/v1/');
  expect(credentialKeyOf('h.i:5')).toBe('h.i:5');
});
