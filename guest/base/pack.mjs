// node guest/base/pack.mjs <archive.tar> <image.erofs>: packs with the addon's own writer.
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

const [archive, image] = process.argv.slice(2);
const root = fileURLToPath(new URL('../..', import.meta.url));
const addon = createRequire(import.meta.url)('node-gyp-build')(root);
await addon.buildImage({ layers: [archive], path: image, limits: {} }).done;
