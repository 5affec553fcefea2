/**
 * Reads `WWW-Authenticate` (RFC 9110 §11.6.1): a list of challenges, each a scheme and a list of
 * parameters, both divided by commas. It comes from whoever answered, so nothing in it is assumed.
 */

export interface Challenge {
  /** In lower case. */
  readonly scheme: string;
  /** By name in lower case; the first of a name counts. */
  readonly parameters: ReadonlyMap<string, string>;
}

const MAX_HEADER = 8 * 1024;
const MAX_CHALLENGES = 16;
const TOKEN = /[!#$%&'*+.^_`|~0-9A-Za-z-]+/y;
const SPACE = /[ \t]*/y;
/** What some schemes have in place of parameters. */
const TOKEN68 = /[0-9A-Za-z._~+/-]+=*(?=[ \t]*(?:,|$))/y;
const QUOTED = /"((?:[^"\\]|\\.)*)"/y;

class Scanner {
  readonly #text: string;
  #position = 0;

  constructor(text: string) {
    this.#text = text;
  }

  get done(): boolean {
    return this.#position >= this.#text.length;
  }

  get position(): number {
    return this.#position;
  }

  rewind(position: number): void {
    this.#position = position;
  }

  take(pattern: RegExp): RegExpExecArray | undefined {
    pattern.lastIndex = this.#position;
    const match = pattern.exec(this.#text);
    if (match === null) return undefined;
    this.#position = pattern.lastIndex;
    return match;
  }

  takeText(text: string): boolean {
    if (!this.#text.startsWith(text, this.#position)) return false;
    this.#position += text.length;
    return true;
  }

  skipSpace(): void {
    this.take(SPACE);
  }

  /** Spaces and commas: lists may have empty elements. */
  skipSeparators(): void {
    do this.skipSpace();
    while (this.takeText(','));
  }
}

/** One `name=value`, or undefined with the scanner where it was. */
function takeParameter(scanner: Scanner): [string, string] | undefined {
  const start = scanner.position;
  const name = scanner.take(TOKEN)?.[0];
  scanner.skipSpace();
  if (name !== undefined && scanner.takeText('=')) {
    scanner.skipSpace();
    const quoted = scanner.take(QUOTED)?.[1];
    const value = quoted?.replace(/\\(.)/gs, '$1') ?? scanner.take(TOKEN)?.[0];
    if (value !== undefined) return [name.toLowerCase(), value];
  }
  scanner.rewind(start);
  return undefined;
}

function takeChallenge(scanner: Scanner): Challenge | undefined {
  const scheme = scanner.take(TOKEN)?.[0];
  if (scheme === undefined) return undefined;
  const parameters = new Map<string, string>();
  scanner.skipSpace();
  let next = takeParameter(scanner);
  if (next === undefined) scanner.take(TOKEN68);
  while (next !== undefined) {
    if (!parameters.has(next[0])) parameters.set(...next);
    const end = scanner.position;
    scanner.skipSeparators();
    next = takeParameter(scanner);
    if (next === undefined) scanner.rewind(end);
  }
  return { scheme: scheme.toLowerCase(), parameters };
}

/** The challenges of all headers, in order, up to the first place that makes no sense. */
export function parseChallenges(headers: readonly string[]): Challenge[] {
  const challenges: Challenge[] = [];
  for (const header of headers) {
    if (header.length > MAX_HEADER) continue;
    const scanner = new Scanner(header);
    scanner.skipSeparators();
    while (!scanner.done && challenges.length < MAX_CHALLENGES) {
      const start = scanner.position;
      const challenge = takeChallenge(scanner);
      if (challenge === undefined) break;
      challenges.push(challenge);
      scanner.skipSpace();
      // Challenges are divided by commas: what else follows is a broken parameter.
      if (!scanner.done && !scanner.takeText(',')) break;
      scanner.skipSeparators();
      if (scanner.position === start) break;
    }
  }
  return challenges;
}
