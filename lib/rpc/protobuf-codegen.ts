/**
 * What generated code uses of the protobuf runtime; replaced at set-up. Apart from `protobuf.ts`,
 * because each of the two holds up the event loop for as long as it may be.
 */
export { enumDesc, fileDesc, messageDesc, serviceDesc } from '@bufbuild/protobuf/codegenv2';
