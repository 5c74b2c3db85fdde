// An ordinary Express app. It knows nothing of Lambda and of lambda-dispatch.
//
//   npm ci                                    install Express
//   node server.mjs                           run it by itself, on 127.0.0.1:$PORT
//   lambdaadapter -- node server.mjs          run it in an execution environment
//
// In a Caddyfile, with the local Lambda in place of AWS:
//
//   lambda_dispatch express {
//       invoker local {
//           command node examples/express/server.mjs
//       }
//   }

import express from "express";
import { pipeline } from "node:stream";
import process from "node:process";

const app = express();
const port = Number(process.env.PORT ?? 3000);
const environment = process.env.AWS_LAMBDA_LOG_STREAM_NAME ?? `pid-${process.pid}`;
let requests = 0;

app.use((req, res, next) => {
  if (req.path !== "/health") requests++;
  res.set("X-Environment", environment);
  next();
});

app.get("/", (req, res) => res.type("text").send(`Express in ${environment}\n`));
app.get("/ping", (req, res) => res.type("text").send("pong"));
app.get("/health", (req, res) => res.type("text").send("OK"));
app.get("/headers", (req, res) => res.json(req.headers));
app.get("/env", (req, res) => res.json({ app: "express", environment, pid: process.pid, requests }));

app.get("/delay", (req, res) => {
  const delay = Number(req.query.delay ?? 20);
  if (!(delay >= 0 && delay <= 900_000)) {
    res.status(400).type("text").send("delay: must be a number of milliseconds from 0 to 900000\n");
    return;
  }
  const timer = setTimeout(() => res.type("text").send(`delayed ${delay} ms\n`), delay);
  res.on("close", () => clearTimeout(timer));
});

// Sends the body back while it arrives.
app.post("/echo", (req, res) => {
  if (req.headers["content-type"]) res.setHeader("Content-Type", req.headers["content-type"]);
  if (req.headers["content-length"]) res.setHeader("Content-Length", req.headers["content-length"]);
  pipeline(req, res, () => {}); // a failure destroys both, which is all there is to do
});

const server = app.listen(port, "127.0.0.1", (err) => {
  if (err) throw err;
  console.log(`express: pid ${process.pid} listening on http://127.0.0.1:${port}`);
});

process.on("SIGTERM", () => {
  server.close(() => process.exit(0));
  server.closeIdleConnections();
});
