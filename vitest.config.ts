import { defineConfig } from 'vitest/config';

/**
 * Processes rather than threads: a test that ends its process takes nobody with it, and every
 * file loads the addon afresh. Two at a time, as a guest that boots keeps a core busy.
 */
export default defineConfig({
  test: {
    pool: 'forks',
    maxWorkers: 2,
    projects: [
      {
        extends: true,
        test: {
          name: 'unit',
          include: ['test/unit/**/*.test.ts', 'test/scripts/**/*.test.ts'],
          testTimeout: 20_000,
        },
      },
      {
        extends: true,
        test: {
          name: 'integration',
          globalSetup: 'test/helpers/empty-templates.ts',
          include: ['test/integration/**/*.test.ts', 'test/docs/**/*.test.ts'],
          testTimeout: 180_000,
          hookTimeout: 180_000,
        },
      },
    ],
  },
});
