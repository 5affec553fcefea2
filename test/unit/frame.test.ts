import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  type DecodedFrame,
  encodeFrame,
  encodeHeader,
  type Frame,
  FrameDecoder,
  HEADER_BYTES,
  isOversized,
  MAX_DATA_BYTES,
} from '../../lib/rpc/frame.js';
import { thrown } from '../helpers/rejection.js';

const frames = fc.array(
  fc.record({
    streamId: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
    type: fc.integer({ min: 0, max: 255 }),
    flags: fc.integer({ min: 0, max: 255 }),
    data: fc.uint8Array({ maxLength: 300 }),
  }),
  { maxLength: 20 },
);

/** Cuts `bytes` at arbitrary places. */
function pieces(bytes: Buffer, cuts: number[]): Uint8Array[] {
  const at = [...new Set(cuts.map((cut) => cut % (bytes.length + 1)))].sort((a, b) => a - b);
  return [0, ...at].map((start, index) => bytes.subarray(start, at[index] ?? bytes.length));
}

function decode(chunks: Uint8Array[]): DecodedFrame[] {
  const decoder = new FrameDecoder();
  return chunks.flatMap((chunk) => decoder.push(chunk));
}

const plain = (frame: DecodedFrame): unknown =>
  isOversized(frame) ? frame : { ...frame, data: [...frame.data] };

describe('frames', () => {
  test('are a big-endian header and the data', () => {
    const frame = { streamId: 0x01020304, type: 1, flags: 2, data: Buffer.from('ab') };
    expect(encodeFrame(frame).toString('hex')).toBe('0000000201020304' + '0102' + '6162');
  });

  test('survive any cutting of the stream', () => {
    fc.assert(
      fc.property(frames, fc.array(fc.nat(), { maxLength: 40 }), (sent: Frame[], cuts) => {
        const bytes = Buffer.concat(sent.map(encodeFrame));
        expect(decode(pieces(bytes, cuts)).map(plain)).toEqual(sent.map(plain));
      }),
    );
  });

  test('survive byte by byte', () => {
    const sent = { streamId: 7, type: 3, flags: 0, data: Buffer.alloc(100_000, 'x') };
    const bytes = encodeFrame(sent);
    const chunks = Array.from(bytes, (byte) => Uint8Array.of(byte));
    expect(decode(chunks).map(plain)).toEqual([plain(sent)]);
  });

  test('of arbitrary bytes are cut without failing, and all input is accounted for', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), fc.array(fc.nat()), (bytes, cuts) => {
        const buffer = Buffer.from(bytes);
        const whole = decode([buffer]).map(plain);
        expect(decode(pieces(buffer, cuts)).map(plain)).toEqual(whole);
      }),
    );
  });
});

describe('the limit', () => {
  const head = { streamId: 3, type: 1, flags: 0 };

  test('is 4 MiB, which goes through', () => {
    const data = Buffer.alloc(MAX_DATA_BYTES, 1);
    const [frame] = decode([encodeFrame({ ...head, data })]);
    expect(frame).toMatchObject(head);
    expect(frame !== undefined && !isOversized(frame) && frame.data.length).toBe(MAX_DATA_BYTES);
  });

  test('is kept by the sender', () => {
    const error = thrown(() => encodeHeader(head, MAX_DATA_BYTES + 1));
    expect(error.code).toBe('ERR_RPC_RESOURCE_EXHAUSTED');
    expect(error.message).toContain(String(MAX_DATA_BYTES));
  });

  test('of the receiver drops the data of the frame, and the next one arrives', () => {
    const length = MAX_DATA_BYTES + 1;
    const header = Buffer.alloc(HEADER_BYTES);
    header.writeUInt32BE(length, 0);
    header.writeUInt32BE(9, 4);
    header.writeUInt8(1, 8);
    const next = encodeFrame({ ...head, data: Buffer.from('next') });
    const decoder = new FrameDecoder();
    const seen = [header, Buffer.alloc(length), next].flatMap((chunk) => decoder.push(chunk));
    expect(seen.map(plain)).toEqual([
      { streamId: 9, type: 1, flags: 0, oversized: length },
      plain({ ...head, data: Buffer.from('next') }),
    ]);
  });

  test('a header that announces much takes no memory before the data comes', () => {
    const before = process.memoryUsage().arrayBuffers;
    const decoders = Array.from({ length: 200 }, () => {
      const decoder = new FrameDecoder();
      decoder.push(encodeHeader(head, MAX_DATA_BYTES));
      decoder.push(Uint8Array.of(1));
      return decoder;
    });
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(decoders.length * 64 * 1024);
  });
});
