import { defineConfig } from "vitest/config";

const server = process.env.OCHATCTL_SERVER ?? "http://localhost:18888";

export default defineConfig({
  // Relative addresses: the page also lives behind `--root-path /PREFIX`.
  base: "./",
  build: {
    outDir: "../src/ochatctl/serve/web",
    emptyOutDir: true,
    target: "es2022",
    // The page's CSP has no `data:`.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    sourcemap: false,
    license: { fileName: "licenses.md" },
  },
  // A busy machine is no fault.
  test: { testTimeout: 60_000 },
  server: {
    proxy: Object.fromEntries(["/v1", "/version", "/health", "/ready"].map((path) => [path, server])),
  },
});
