/** The package as `npm pack` makes it, unpacked where a program would have it. */

import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";

export const PACKAGE = fileURLToPath(new URL("../", import.meta.url));
export const NODE_MODULES = path.join(PACKAGE, "node_modules");

/** An empty folder with the package and what it depends on. Whoever asks for it removes it. */
export function installed(): { folder: string; files: string[]; remove(): void } {
  const folder = mkdtempSync(path.join(tmpdir(), "everloop-"));
  const modules = path.join(folder, "node_modules");
  mkdirSync(modules);
  for (const name of readdirSync(NODE_MODULES).filter((each) => !each.startsWith("."))) {
    symlinkSync(path.join(NODE_MODULES, name), path.join(modules, name));
  }
  const npm = ["pack", "--ignore-scripts", "--json", "--pack-destination", folder];
  const [packed] = JSON.parse(
    execFileSync("npm", npm, { cwd: PACKAGE, encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }),
  );
  execFileSync("tar", ["-xzf", path.join(folder, packed.filename), "-C", modules]);
  execFileSync("mv", [path.join(modules, "package"), path.join(modules, "everloop")]);
  const files: string[] = packed.files.map((file: { path: string }) => file.path);
  return { folder, files, remove: () => rmSync(folder, { recursive: true }) };
}
