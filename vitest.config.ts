import { defineConfig } from 'vitest/config';

/**
 * Processes rather than threads: a test that ends its process takes nobody with it, and every
 * file loads the addon afresh. Integration files run one at a time, because each boot of a guest
 * keeps a core busy and two of them would only measure each other.
 */
export default defineConfig({
  test: {
    pool: 'forks',
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
          fileParallelism: false,
          testTimeout: 180_000,
          hookTimeout: 180_000,
        },
      },
    ],
  },
});
