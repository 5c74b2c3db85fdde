// What users get, and what the README tells them to do.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import * as path from "node:path";
import { after, before, test } from "node:test";

const root = path.join(__dirname, "../..");
const checkout = path.join(root, "../..");
const read = (file: string) => readFileSync(path.join(root, file), "utf8");
const readme = read("README.md");
const modules = realpathSync(path.join(root, "node_modules"));

const scratch = mkdtempSync(path.join(tmpdir(), "lambda-dispatch-cdk-"));
const library = path.join(scratch, "lambda-dispatch/deploy/cdk");
const shop = path.join(scratch, "shop");
after(() => rmSync(scratch, { recursive: true }));

/** Code of the README in the language. */
function blocks(language: string): string[] {
  return [...readme.matchAll(new RegExp(`^\`\`\`${language}\n([^]*?)^\`\`\`$`, "gm"))].map((b) => b[1]);
}

// The README's way, without a registry: what npm ci installs is there already.
before(() => {
  cpSync(root, library, {
    recursive: true,
    filter: (file) => !["node_modules", "dist", "cdk.out"].includes(path.relative(root, file)),
  });
  symlinkSync(modules, path.join(library, "node_modules"));
  mkdirSync(shop);
  writeFileSync(path.join(shop, "package.json"), '{"name":"shop","private":true}');
  const [install, ...others] = blocks("sh");
  assert.deepEqual(others, []);
  assert.match(install, /^npm ci$/m);
  execFileSync("sh", ["-euc", install.replace(/^npm ci$/m, "")], {
    cwd: scratch,
    stdio: ["ignore", "ignore", "inherit"],
    env: {
      ...process.env,
      npm_config_offline: "true",
      npm_config_legacy_peer_deps: "true", // they are linked below
      npm_config_audit: "false",
      npm_config_loglevel: "error",
    },
  });
  for (const name of ["aws-cdk-lib", "constructs", "@types"]) {
    symlinkSync(path.join(modules, name), path.join(shop, "node_modules", name));
  }
});

test("the package has the library, its licence and its README, and nothing else", () => {
  const list = execFileSync("tar", ["-tzf", path.join(library, "lambda-dispatch-cdk-0.1.0.tgz")], { encoding: "utf8" });
  const files = list.trim().split("\n").map((f) => f.replace("package/", ""));
  const others = files.filter((f) => !/^dist\/lib\/\w+(\.js|\.d\.ts)$/.test(f));
  assert.deepEqual(others.sort(), ["LICENSE", "README.md", "package.json"]);
  assert.ok(files.includes("dist/lib/index.js") && files.includes("dist/lib/index.d.ts"), list);
  assert.equal(read("LICENSE"), readFileSync(path.join(checkout, "LICENSE"), "utf8"));
});

test("the package says where it comes from", () => {
  const about = JSON.parse(read("package.json"));
  const [, repository] = /^module (\S+)/.exec(readFileSync(path.join(checkout, "go.mod"), "utf8"))!;
  assert.equal(about.repository.url, `git+https://${repository}.git`);
  assert.equal(path.join(checkout, about.repository.directory), root);
  for (const url of [about.homepage, about.bugs]) assert.ok(url.startsWith(`https://${repository}/`), url);
});

test("what is installed can be used", () => {
  const names = execFileSync("node", ["-p", 'Object.keys(require("lambda-dispatch-cdk")).join()'], { cwd: shop, encoding: "utf8" });
  assert.match(names, /LambdaDispatchFunction.*LambdaDispatchRouter/);
});

test("the README's code is right", () => {
  const bodies = blocks("ts").map((b) => `{\n${b.replace(/^import .*\n/gm, "")}}`);
  const imports = /^import .*$/m.exec(readme)![0];
  writeFileSync(
    path.join(shop, "shop.ts"),
    `import { Stack } from "aws-cdk-lib";
import * as acm from "aws-cdk-lib/aws-certificatemanager";
import * as ec2 from "aws-cdk-lib/aws-ec2";
import * as ecr from "aws-cdk-lib/aws-ecr";
import * as ecs from "aws-cdk-lib/aws-ecs";
import * as lambda from "aws-cdk-lib/aws-lambda";
${imports}
declare const vpc: ec2.Vpc, repository: ecr.IRepository, image: ecs.ContainerImage, certificate: acm.ICertificate;
export class Shop extends Stack {
  constructor() {
    super();
    ${bodies.join("\n")}
  }
}
`,
  );
  execFileSync("node", [path.join(modules, "typescript/bin/tsc"), "--noEmit", "--strict", "--skipLibCheck", "--module", "node16", "--target", "es2022", "shop.ts"], {
    cwd: shop,
    stdio: ["ignore", "inherit", "inherit"],
  });
});
