/** What generated code uses of the protobuf runtime; replaced at set-up, as `config/zod.ts` is. */
export { BinaryReader, BinaryWriter } from '@bufbuild/protobuf/wire';
