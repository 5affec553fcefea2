/** What the messages use of the protobuf runtime; replaced at set-up, as `config/zod.ts` is. */
export { create, fromBinary, type MessageInitShape, toBinary } from '@bufbuild/protobuf';
