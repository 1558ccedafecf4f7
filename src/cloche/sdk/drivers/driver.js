// The driver of a context for node: runs inside the sandbox, given a token.  See cloche/sdk/code.py.
"use strict";
const fs = require("fs");
const util = require("util");
const vm = require("vm");

const token = process.argv[1];
process.argv.splice(1);
const result = (kind, text) => {
  const data = Buffer.from(text, "utf8");
  return Buffer.concat([Buffer.from(`\x1e${token}:${kind}:${data.length}\n`), data]);
};
const put = (fd, data) => {
  for (let at = 0; at < data.length; ) {
    try {
      at += fs.writeSync(fd, data, at);
    } catch (error) {
      if (error.code !== "EAGAIN") throw error;
    }
  }
};
// All output goes out at once and in order, also the last output before a program ends.
process.stdout.write = (text, encoding, done) => {
  put(1, typeof text === "string" ? Buffer.from(text, typeof encoding === "string" ? encoding : "utf8") : text);
  const call = typeof encoding === "function" ? encoding : done;
  if (call) process.nextTick(call);
  return true;
};
process.stderr.write = (text, encoding, done) => {
  put(2, typeof text === "string" ? Buffer.from(text, typeof encoding === "string" ? encoding : "utf8") : text);
  const call = typeof encoding === "function" ? encoding : done;
  if (call) process.nextTick(call);
  return true;
};

globalThis.require = require;
globalThis.module = module;
let interrupt = null;
process.on("SIGINT", () => interrupt && interrupt(new Error("interrupted")));
process.on("uncaughtException", (error) => interrupt && interrupt(error));
process.on("unhandledRejection", (error) => interrupt && interrupt(error));

const wrapped = (code) => `(async () => { ${code}\n})()`;
const compile = (code, name) => {
  try {
    return new vm.Script(code, { filename: name });
  } catch (error) {
    if (!(error instanceof SyntaxError) || !/\bawait\b/.test(code)) throw error;
    try {
      return new vm.Script(`(async () => (${code}\n))()`, { filename: name });
    } catch {
      return new vm.Script(wrapped(code), { filename: name });
    }
  }
};

let count = 0;
const run = async (code) => {
  count += 1;
  const fields = { error: null };
  try {
    const script = compile(code, `cell ${count}`);
    const waits = new Promise((_resolve, reject) => (interrupt = reject));
    waits.catch(() => {});
    const value = await Promise.race([script.runInThisContext({ breakOnSigint: true }), waits]);
    if (value !== undefined) {
      const formats = { "text/plain": typeof value === "string" ? value : util.inspect(value) };
      try {
        const json = JSON.stringify(value);
        if (typeof value === "object" && json !== undefined) formats["application/json"] = json;
      } catch {}
      put(1, result("result", JSON.stringify({ is_main: true, formats })));
    }
  } catch (error) {
    const isError = util.types.isNativeError(error) || error instanceof Error;
    fields.error = {
      name: isError ? String(error.name) : "Error",
      value: isError ? String(error.message) : util.inspect(error),
      traceback: isError ? String(error.stack) : "",
    };
  }
  interrupt = null;
  put(2, result("end", ""));
  put(1, result("end", JSON.stringify(fields)));
};

put(1, result("ready", ""));
(async () => {
  let buffer = Buffer.alloc(0);
  for await (const chunk of process.stdin) {
    buffer = Buffer.concat([buffer, chunk]);
    for (;;) {
      const at = buffer.indexOf(10);
      if (at < 0) break;
      const length = Number(buffer.subarray(0, at).toString());
      if (buffer.length < at + 1 + length) break;
      const code = buffer.subarray(at + 1, at + 1 + length).toString("utf8");
      buffer = buffer.subarray(at + 1 + length);
      await run(code);
    }
  }
  process.exit(0);
})();
