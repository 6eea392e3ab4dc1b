// Served by Node, over TLS where a certificate is given.
import fs from "node:fs";
import http from "node:http";
import https from "node:https";

const [port, idle, requests, certificate, key] = process.argv.slice(2);

const server = certificate
  ? https.createServer({ cert: fs.readFileSync(certificate), key: fs.readFileSync(key) })
  : http.createServer();
server.keepAliveTimeout = idle * 1000;
server.maxRequestsPerSocket = Number(requests);

server.on("request", (request, response) => {
  // Like other servers, say how long a connection may be idle only to those who ask: Node says it to all.
  if (!request.headers.connection) response.setHeader("Connection", "keep-alive");
  if (request.url.startsWith("/refused")) {
    response.writeHead(413).end("refused");
    return;
  }
  let size = 0;
  request.on("data", (chunk) => (size += chunk.length));
  request.on("end", () => {
    const answer = () => {
      const call = request.url.split("call=")[1];
      if (call && process.env.CALLS) fs.appendFileSync(process.env.CALLS, `${call}\n`);
      response.end(`${request.method} ${request.url} ${size}`);
    };
    request.url.startsWith("/slow") ? setTimeout(answer, 50) : answer();
  });
});

process.on("SIGTERM", () => server.close());
server.listen(Number(port), "127.0.0.1");
