// The page as files that load from their own server only, each with a compressed twin.
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { defineConfig, type Plugin } from "vite";

// Writes FILE.gz beside every asset; prepack-studio sends it to browsers that take it.
function compressed(): Plugin {
  return {
    name: "compressed",
    closeBundle() {
      const folder = new URL("dist/assets/", import.meta.url);
      for (const name of readdirSync(folder))
        if (!name.endsWith(".gz"))
          writeFileSync(new URL(`${name}.gz`, folder), gzipSync(readFileSync(new URL(name, folder)), { level: 9 }));
    },
  };
}

export default defineConfig({
  base: "/",
  html: { cspNonce: "__NONCE__" },
  build: { modulePreload: false, assetsInlineLimit: 0, target: "es2022", reportCompressedSize: false },
  plugins: [compressed()],
});
