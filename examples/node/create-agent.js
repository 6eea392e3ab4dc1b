const http = require('node:http');

const agent = new http.Agent();
const aliveAgent = new http.Agent({ keepAlive: true, maxSockets: 5 });

console.log('agent:', agent.keepAlive, agent.maxSockets, agent.maxFreeSockets, agent.scheduling);
console.log('alive agent:', aliveAgent.keepAlive, aliveAgent.maxSockets);

// A connection is made when a request needs one.
const server = http.createServer((request, response) => response.end('hello\n'));
server.listen(0, '127.0.0.1', async () => {
  const { port } = server.address();
  for (const [name, each] of Object.entries({ agent, 'alive agent': aliveAgent })) {
    await new Promise((done) => {
      http.get({ host: '127.0.0.1', port, agent: each }, (response) => {
        response.resume();
        response.on('close', () => setImmediate(done));
      });
    });
    const free = Object.values(each.freeSockets).flat().length;
    console.log(`made a connection with ${name}, afterwards ${free} free`);
    each.destroy();
  }
  server.close();
});
