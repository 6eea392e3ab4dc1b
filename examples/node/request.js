const http = require('node:http');
const Agent = require('agentkeepalive');

const agent = new Agent();

const server = http.createServer((request, response) => response.end('hello\n'));
server.keepAliveTimeout = 5000;
server.listen(0, '127.0.0.1', () => {
  const options = { host: '127.0.0.1', port: server.address().port, path: '/', agent };
  const request = http.request(options, (response) => {
    console.log('Status code:', response.statusCode);
    console.log('Headers:', response.headers);
    response.resume();
    response.on('close', () => setImmediate(() => {
      agent.destroy();
      server.close();
    }));
  });
  console.log('Agent options:', request.agent.options);
  request.end();
});
