// Served by Bun, over TLS where a certificate is given.
import fs from "node:fs";

const [port, idle, limit, certificate, key] = process.argv.slice(2);

const server = Bun.serve({
  hostname: "127.0.0.1",
  port: Number(port),
  idleTimeout: Number(idle),
  maxRequestBodySize: Number(limit),
  tls: certificate ? { cert: Bun.file(certificate), key: Bun.file(key) } : undefined,
  async fetch(request) {
    const url = new URL(request.url);
    if (url.pathname.startsWith("/refused")) return new Response("refused", { status: 413 });
    const size = (await request.arrayBuffer()).byteLength;
    if (url.pathname.startsWith("/slow")) await Bun.sleep(50);
    const call = url.searchParams.get("call");
    if (call && process.env.CALLS) fs.appendFileSync(process.env.CALLS, `${call}\n`);
    return new Response(`${request.method} ${url.pathname}${url.search} ${size}`);
  },
});

process.on("SIGTERM", async () => {
  await server.stop();
  process.exit();
});
