// Usage: clients.cjs <node_modules> <base url> <token>
const assert = require('node:assert');
const { createRequire } = require('node:module');
const [modules, base, token] = process.argv.slice(2);
const from = createRequire(`${modules}/`);
const ws = from('graphql-ws');
const sse = from('graphql-sse');
const { WebSocket } = from('ws');

const CHANGED = { query: 'subscription { ticketChanged { ticket { subject } } }' };
const authorization = `Bearer ${token}`;
const errorOf = (run) => new Promise((resolve, reject) => run({ next: reject, error: resolve, complete: () => reject(new Error('no error')) }));

async function write(subject) {
  const body = JSON.stringify({ query: `mutation { ticketCreate(input: { subject: "${subject}" }) { ticket { id } } }` });
  const headers = { authorization, 'content-type': 'application/json' };
  assert.strictEqual((await fetch(`${base}/graphql`, { method: 'POST', headers, body })).status, 200);
}

// Follows until a ticket of this subject comes; until then they are made.
async function follow(client, subject) {
  let heard = false;
  const hearing = new Promise((resolve, reject) => {
    const stop = client.subscribe(CHANGED, {
      next: (result) => {
        if (result.errors) reject(new Error(JSON.stringify(result)));
        if (result.data.ticketChanged.ticket.subject !== subject) return;
        heard = true;
        assert.match(result.extensions.eventId, /^[0-9a-f.~]+$/);
        stop();
      },
      error: reject,
      complete: resolve,
    });
  });
  while (!heard) {
    await write(subject);
    await Promise.race([hearing, new Promise((resolve) => setTimeout(resolve, 200))]);
  }
  await hearing;
}

const ask = (client, query) => new Promise((resolve, reject) => {
  let result;
  client.subscribe({ query }, { next: (value) => { result = value; }, error: reject, complete: () => resolve(result) });
});

async function sockets() {
  let connections = 0;
  const client = (connectionParams, retryAttempts) => {
    connections = 0;
    const on = { connecting: () => { connections += 1; } };
    const url = `${base.replace('http', 'ws')}/graphql/ws`;
    return ws.createClient({ url, webSocketImpl: WebSocket, connectionParams, retryAttempts, retryWait: async () => {}, on });
  };
  const anonymous = client(undefined, 3);
  const refused = await errorOf((sink) => anonymous.subscribe(CHANGED, sink));
  assert.deepStrictEqual([refused.code, refused.reason, connections], [4401, 'Unauthorized', 1]);
  const wrong = client({ authorization: 'Bearer nonsense' }, 1);
  const forbidden = await errorOf((sink) => wrong.subscribe(CHANGED, sink));
  assert.deepStrictEqual([forbidden.code, forbidden.reason, connections], [4403, 'Forbidden', 2]);
  // The next attempt asks for credentials anew.
  const tokens = ['Bearer nonsense', authorization];
  const renewed = client(() => ({ authorization: tokens.shift() ?? authorization }), 1);
  await follow(renewed, 'over a socket');
  assert.strictEqual((await ask(renewed, '{ viewer { user { email } } }')).data.viewer.user.email, 'alice@example.com');
  await renewed.dispose();
}

async function events(singleConnection) {
  const asked = [];
  const fetchFn = (url, options) => {
    asked.push(options.method ?? 'GET');
    return fetch(url, options);
  };
  const url = `${base}/graphql${singleConnection ? '/stream' : ''}`;
  const client = sse.createClient({ url, singleConnection, headers: () => ({ authorization }), retryAttempts: 0, fetchFn });
  const name = singleConnection ? 'one' : 'distinct';
  await Promise.all([follow(client, `${name} a`), follow(client, `${name} b`), follow(client, `${name} c`)]);
  assert.strictEqual((await ask(client, '{ viewer { user { email } } }')).data.viewer.user.email, 'alice@example.com');
  // The other mode answers 400, which the client tells as its own error.
  const invalid = await ask(client, '{ nope }').catch((error) => error.response?.status ?? error);
  assert.ok(singleConnection ? invalid === 400 : invalid.errors[0].extensions.code === 'GRAPHQL_VALIDATION_FAILED', JSON.stringify(invalid));
  if (singleConnection) {
    // Three follow over one stream; when the last has ended the client closes it.
    const puts = asked.filter((method) => method === 'PUT').length;
    assert.ok(puts <= 3 && asked.filter((method) => method === 'DELETE').length === 3, asked.join());
  }
  client.dispose();
}

async function main() {
  await sockets();
  await events(false);
  await events(true);
  console.log('ALL WELL');
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
