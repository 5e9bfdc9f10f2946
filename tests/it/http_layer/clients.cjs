// Clients with persisted documents: node clients.cjs <node_modules> <manifests> <url> <token> <enforcing url> <token>
const assert = require('node:assert/strict');
const { createHash } = require('node:crypto');
const { createRequire } = require('node:module');
const { readFileSync } = require('node:fs');
const path = require('node:path');

const [modules, manifests, open, openToken, enforcing, enforcingToken] = process.argv.slice(2);
const load = createRequire(path.join(modules, 'clients.cjs'));
const { ApolloClient, HttpLink, InMemoryCache, gql } = load('@apollo/client');
const { PersistedQueryLink } = load('@apollo/client/link/persisted-queries');
const { generatePersistedQueryIdsFromManifest } = load('@apollo/persisted-query-lists');
const urql = load('@urql/core');
const { persistedExchange } = load('@urql/exchange-persisted');

const sha256 = (text) => createHash('sha256').update(text).digest('hex');
const manifest = (name) => JSON.parse(readFileSync(path.join(manifests, `${name}.json`), 'utf8'));
const EMAIL = 'alice@example.com';

/// Writes down what goes over the wire.
function watch(token) {
  const requests = [];
  const watched = async (url, options) => {
    const headers = { ...options.headers, authorization: `Bearer ${token}` };
    const response = await fetch(url, { ...options, headers });
    const sent = options.body ? JSON.parse(options.body) : Object.fromEntries(new URL(url).searchParams);
    requests.push({ method: options.method, text: sent.query, status: response.status, etag: response.headers.get('etag'), url });
    return response;
  };
  return { requests, fetch: watched };
}

const shape = ({ requests }) => requests.splice(0).map(({ method, text, status }) => `${method} ${text ? 'text' : 'hash'} ${status}`);

function apollo(url, token, name, options) {
  const wire = watch(token);
  const link = new PersistedQueryLink(options).concat(new HttpLink({ uri: `${url}/graphql`, fetch: wire.fetch }));
  const client = new ApolloClient({ cache: new InMemoryCache(), link, clientAwareness: { name } });
  const run = async (query, variables) => (await client.query({ query, variables, fetchPolicy: 'no-cache' })).data;
  return { client, run, wire };
}

async function apolloAutomatic() {
  const document = gql`query ApolloViewer { viewer { user { email } } }`;
  const first = apollo(open, openToken, 'web', { sha256 });
  assert.equal((await first.run(document)).viewer.user.email, EMAIL);
  assert.deepEqual(shape(first.wire), ['POST hash 200', 'POST text 200']);
  assert.equal((await first.run(document)).viewer.user.email, EMAIL);
  assert.deepEqual(shape(first.wire), ['POST hash 200']);

  const get = apollo(open, openToken, 'web', { sha256, useGETForHashedQueries: true });
  assert.equal((await get.run(document)).viewer.user.email, EMAIL);
  assert.deepEqual(shape(get.wire), ['GET hash 200']);
  await get.run(gql`query Other { viewer { user { name } } }`);
  assert.deepEqual(shape(get.wire), ['GET hash 200', 'POST text 200']);
  // What is wrong with a document comes through, and nothing is registered.
  const wrong = gql`query Wrong { nope }`;
  await assert.rejects(get.run(wrong), (error) => error.errors[0].extensions.code === 'GRAPHQL_VALIDATION_FAILED');
  assert.deepEqual(shape(get.wire), ['GET hash 200', 'POST text 400']);
}

async function apolloTrusted() {
  const ids = generatePersistedQueryIdsFromManifest({ loadManifest: async () => manifest('web') });
  const { run, client, wire } = apollo(enforcing, enforcingToken, 'web', { ...ids, useGETForHashedQueries: true });
  const viewer = gql`query Viewer { viewer { user { email } } }`;
  assert.equal((await run(viewer)).viewer.user.email, EMAIL);
  const { url, etag, status } = wire.requests[0];
  assert.equal(status, 200);
  const headers = { authorization: `Bearer ${enforcingToken}`, 'apollographql-client-name': 'web', 'if-none-match': etag, accept: 'application/graphql-response+json' };
  assert.equal((await fetch(url, { headers })).status, 304);
  assert.deepEqual(shape(wire), ['GET hash 200']);
  const board = gql`query TicketBoard($first: Int!) { organization { id tickets(first: $first) { nodes { ...TicketRow } } } } fragment TicketRow on Ticket { id subject status }`;
  const { organization } = await run(board, { first: 1 });
  const rename = gql`mutation RenameTicket($input: TicketUpdateInput!) { ticketUpdate(input: $input) { ticket { id subject } userErrors { message code } } }`;
  const input = { id: organization.tickets.nodes[0].id, subject: 'Renamed by a trusted document' };
  const { data } = await client.mutate({ mutation: rename, variables: { input } });
  assert.equal(data.ticketUpdate.ticket.subject, input.subject);
  assert.deepEqual(shape(wire), ['GET hash 200', 'POST hash 200']);

  // Another client's document: refused, and the text is not sent after it.
  const other = apollo(enforcing, enforcingToken, 'relay', ids);
  await assert.rejects(other.run(viewer), (error) => error.errors[0].extensions.code === 'PERSISTED_QUERY_NOT_IN_LIST');
  assert.deepEqual(shape(other.wire), ['POST hash 404']);
}

async function urqlBoth() {
  const client = (url, token, name, options) => {
    const wire = watch(token);
    const exchanges = [persistedExchange(options), urql.fetchExchange];
    const fetchOptions = { headers: { 'graphql-client-name': name } };
    return { wire, client: new urql.Client({ url: `${url}/graphql`, exchanges, fetch: wire.fetch, fetchOptions }) };
  };
  const document = 'query UrqlViewer { viewer { user { email } } }';
  const automatic = client(open, openToken, 'web', { preferGetForPersistedQueries: true });
  for (const expected of [['GET hash 200', 'POST text 200'], ['GET hash 200']]) {
    const { data, error } = await automatic.client.query(document, {}).toPromise();
    assert.equal(error, undefined);
    assert.equal(data.viewer.user.email, EMAIL);
    assert.deepEqual(shape(automatic.wire).map((line) => line.replace(/^GET text/, 'POST text')), expected);
  }
  const [viewer] = manifest('web').operations.filter(({ name }) => name === 'Viewer');
  const options = { enforcePersistedQueries: true, enableForMutation: true, generateHash: async () => viewer.id, preferGetForPersistedQueries: true };
  const trusted = client(enforcing, enforcingToken, 'web', options);
  const { data, error } = await trusted.client.query('query Viewer { viewer { user { email } } }', {}).toPromise();
  assert.equal(error, undefined);
  assert.equal(data.viewer.user.email, EMAIL);
  assert.deepEqual(shape(trusted.wire), ['GET hash 200']);
}

/// Relay leaves the request to its user; the function is that of its guide.
async function relay() {
  const fetchQuery = (operation, variables) => fetch(`${enforcing}/graphql`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: `Bearer ${enforcingToken}`, 'graphql-client-name': 'relay' },
    body: JSON.stringify({ doc_id: operation.id, variables }),
  }).then((response) => response.json());
  const [id] = Object.entries(manifest('relay')).find(([, text]) => text.startsWith('query AppBoardQuery'));
  const { data } = await fetchQuery({ id, text: null }, { first: 2 });
  assert.equal(data.organization.tickets.nodes.length, 2);
}

(async () => {
  await apolloAutomatic();
  await apolloTrusted();
  await urqlBoth();
  await relay();
  console.log('ALL WELL');
})().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
