/** What a programmer gets: the package as it is packed, and every block of its README, compiled and run as it stands there. */

import assert from "node:assert/strict";
import { execFile, execFileSync } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { promisify } from "node:util";
import { MISSING, PYTHON, Server } from "./everloop.js";
import { installed, PACKAGE } from "./installed.js";

const TSC = path.join(PACKAGE, "node_modules", "typescript", "bin", "tsc");
/** As its programs follow on each other: a model has to be there before it is asked. */
const BLOCK = /^```(ts|python)\n(?:\/\/|#) (\w+\.(?:ts|py))\n([\s\S]*?)^```/gm;
const blocks = [...readFileSync(path.join(PACKAGE, "README.md"), "utf8").matchAll(BLOCK)].map(([, , name, text]) => ({
  name: name as string,
  text: text as string,
}));
const COMPILER = { module: "NodeNext", target: "ES2022", strict: true, skipLibCheck: true, types: ["node"] };

describe("the package", () => {
  let place: ReturnType<typeof installed>;
  before(() => {
    place = installed();
    writeFileSync(path.join(place.folder, "package.json"), JSON.stringify({ type: "module", private: true }));
    writeFileSync(
      path.join(place.folder, "tsconfig.json"),
      JSON.stringify({ compilerOptions: { ...COMPILER, outDir: "out" }, include: ["*.ts"] }),
    );
    for (const { name, text } of blocks) {
      writeFileSync(path.join(place.folder, name), text);
    }
  });
  after(() => place.remove());

  test("it holds the code, its types, the Python half and what a package should say, and no more", () => {
    for (const file of [
      "README.md",
      "LICENSE",
      "package.json",
      "dist/index.js",
      "dist/index.d.ts",
      "dist/client/schema.d.ts",
      "python/everloop_bridge/__init__.py",
    ]) {
      assert(place.files.includes(file), file);
    }
    const other = place.files.filter((file) => !/^(dist|src|python)\/|^(README\.md|LICENSE|package\.json)$/.test(file));
    assert.deepEqual(other, []);
    assert.deepEqual(
      place.files.filter((file) => /test|__pycache__|\.pyc$|tsbuildinfo/.test(file)),
      [],
    );
  });

  test("every entry of its exports is there, with types", () => {
    const { exports } = JSON.parse(readFileSync(path.join(PACKAGE, "package.json"), "utf8"));
    for (const entry of Object.values(exports).flatMap((each) => Object.values(each as object | string[]))) {
      if (typeof entry === "string" && entry.startsWith("./")) {
        assert(place.files.includes(entry.slice(2)), entry);
      }
    }
  });

  test("the blocks of the README are programs that the compiler agrees with", () => {
    assert(blocks.length >= 9, `found ${blocks.length}`);
    try {
      execFileSync(process.execPath, [TSC, "-p", place.folder], { encoding: "utf8" });
    } catch (error) {
      assert.fail((error as { stdout: string }).stdout);
    }
  });

  test("the README tells every option", () => {
    const readme = readFileSync(path.join(PACKAGE, "README.md"), "utf8");
    for (const [file, name] of [
      ["bridge/bridge.ts", "BridgeOptions"],
      ["client/client.ts", "ClientOptions"],
      ["client/asking.ts", "PredictOptions"],
      ["client/score.ts", "ScoreOptions"],
      ["client/showcase.ts", "AnalyzeOptions"],
      ["client/rollouts.ts", "ChangeOptions"],
    ] as const) {
      const source = readFileSync(path.join(PACKAGE, "src", file), "utf8");
      const declared = new RegExp(`export interface ${name} [^{]*\\{([\\s\\S]*?)^\\}`, "m").exec(source)?.[1] ?? "";
      const options = [...declared.matchAll(/^ {2}(\w+)\?:/gm)].map(([, option]) => option);
      assert(options.length > 0, name);
      const missing = options.filter((option) => !new RegExp(`\\b${option}\\b`).test(readme));
      assert.deepEqual(missing, [], name);
    }
  });

  describe("its README, followed", { skip: MISSING }, () => {
    let server: Server;
    before(async () => {
      server = await Server.start("--showcase");
    });
    after(() => server.stop());

    for (const { name } of blocks.filter((each) => each.name.endsWith(".ts"))) {
      test(name, async () => {
        const program = path.join(place.folder, "out", name.replace(/\.ts$/, ".js"));
        assert(existsSync(program));
        const environment = {
          ...process.env,
          EVERLOOP_URL: server.url,
          VIRTUAL_ENV: path.dirname(path.dirname(PYTHON)),
        };
        const options = { cwd: place.folder, env: environment, timeout: 60_000 };
        const { stdout, stderr } = await promisify(execFile)(process.execPath, [program], options);
        assert.notEqual(stdout, "", name);
        assert.equal(stderr, "", name);
        for (const [, promised] of told(name)) {
          assert(stdout.includes(promised as string), `${name} promises ${promised}, and printed\n${stdout}`);
        }
      });
    }
  });
});

/** What comments behind `console.log` promise. */
function told(name: string): RegExpExecArray[] {
  const { text } = blocks.find((each) => each.name === name) as { text: string };
  return [...text.matchAll(/console\.log\(.*\); \/\/ prints ([^;\n]+)/g)];
}
