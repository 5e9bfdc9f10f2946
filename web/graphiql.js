/**
 * The page around GraphiQL: who is asking (a development persona, or a token typed in), the fetcher that carries the
 * token over HTTP and graphql-transport-ws, and the example tabs.
 *
 * Tokens of personas stay in memory. A typed token stays in sessionStorage, that is in this browser tab.
 */
'use strict';

(() => {
  const ENDPOINT = '/graphql';
  const SOCKET = `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/graphql/ws`;
  const REMEMBERED = 'tenantry:identity';
  /** A token is renewed when it has less than this to live. */
  const RENEW_BEFORE_MS = 60_000;

  const element = (id) => document.getElementById(id);
  const meta = (name) => document.querySelector(`meta[name="${name}"]`)?.content;

  // GraphiQL's dialogs insert a <style>; under this name the library looks for the nonce that the policy asks for.
  window.__webpack_nonce__ = meta('tenantry-nonce');

  // ---- Example tabs -------------------------------------------------------------------------------------------

  // GraphiQL takes a tab's title from the first operation name that it sees, in a comment too if that is indented.
  const EXAMPLES = [
    {
      query: ` # query Overview (Ctrl-Enter runs it)

{ viewer { user { email } role permissions }
  organization { name slug
    members(first: 5) { nodes { role user { name email } } }
    tickets(first: 5, orderBy: [{ field: CREATED_AT, direction: DESC }]) { totalCount nodes { number subject status priority assignee { user { name } } customer { name tier } } pageInfo { hasNextPage endCursor } }
    budgets(first: 3) { nodes { type limit { amount currencyCode } spent { amount currencyCode } usageRecords(first: 3) { nodes { amount { amount } } } } }
    featureFlags { key enabled }
    subscription { plan status seatCount currentPeriodEnd } } }
`,
    },
    {
      query: `# Tickets needing an answer, the oldest first
query TicketsNeedingAnswer($first: Int = 20, $after: String) {
  organization {
    tickets(
      first: $first
      after: $after
      where: { status: { in: [NEW, OPEN] } }
      orderBy: [{ field: CREATED_AT, direction: ASC }]
    ) {
      totalCount
      nodes {
        number
        subject
        status
        priority
        createdAt
        customer {
          name
          tier
        }
      }
      pageInfo {
        hasNextPage
        endCursor
      }
    }
  }
}
`,
      variables: '{\n  "first": 20\n}',
    },
    {
      query: `# What the input gets wrong comes back in userErrors
mutation TicketCreate($input: TicketCreateInput!) {
  ticketCreate(input: $input) {
    ticket {
      number
      subject
      status
    }
    userErrors {
      field
      message
      code
    }
  }
}
`,
      variables: `{
  "input": {
    "subject": "Cannot export the monthly report",
    "description": "The download stops at 90 percent.",
    "priority": "HIGH"
  }
}`,
    },
    {
      query: `# Start it, then create a ticket in another window
subscription TicketChanged {
  ticketChanged {
    ticket {
      number
      subject
      status
    }
  }
}
`,
    },
  ];

  // ---- Storage that may be switched off --------------------------------------------------------------------------

  const stored = (storage, key) => {
    try {
      return JSON.parse(window[storage].getItem(key)) ?? {};
    } catch {
      return {};
    }
  };
  const store = (storage, key, value) => {
    try {
      window[storage].setItem(key, JSON.stringify(value));
    } catch {
      // The page works without; it only forgets.
    }
  };

  // ---- Who is asking ---------------------------------------------------------------------------------------------

  const showSession = (state, text, title = '') => {
    document.documentElement.dataset.session = state;
    const output = element('session-state');
    output.dataset.state = state;
    output.textContent = text;
    output.title = title;
  };

  /** Identity from the personas of a development server: pick one, and its token is fetched and kept fresh. */
  class Personas {
    #personas = [];
    #token = null;
    #expiresAt = 0;
    #renewal = null;
    #renewing = false;
    #timer = 0;

    constructor(changed) {
      this.changed = changed;
      element('personas').hidden = false;
      element('personas').addEventListener('submit', (event) => event.preventDefault());
      element('persona').addEventListener('change', () => this.#choose());
      element('organization').addEventListener('change', () => this.#choose(element('organization').value));
      element('copy-token').addEventListener('click', () => this.#copy());
      this.ready = this.#load();
    }

    async #load() {
      showSession('waiting', 'Loading personas…');
      try {
        this.#personas = await getJson('/dev/personas');
        if (!Array.isArray(this.#personas) || !this.#personas.length) throw new Error('the server has none');
      } catch (error) {
        showSession('failed', 'No personas', `/dev/personas: ${error.message}`);
        return;
      }
      element('persona').replaceChildren(...this.#personas.map((it) => new Option(it.name, it.email)));
      const { user, organization } = stored('localStorage', REMEMBERED);
      if (this.#personas.some((it) => it.email === user)) element('persona').value = user;
      await this.#choose(organization, false);
    }

    /** Takes over what the lists show; `organization` is kept where the persona has it. */
    async #choose(organization, announce = true) {
      const persona = this.#persona();
      const options = persona.organizations.map((it) => new Option(it.name, it.slug));
      options.push(new Option('no organization', ''));
      const list = element('organization');
      list.replaceChildren(...options);
      const known = options.some((it) => it.value === organization);
      list.value = known ? organization : options[0].value;
      element('persona').title = persona.email;
      element('description').textContent = persona.description ?? '';
      store('localStorage', REMEMBERED, { user: persona.email, organization: list.value });
      const renewal = this.renew();
      if (announce) this.changed();
      await renewal;
    }

    #persona() {
      const email = element('persona').value;
      return this.#personas.find((it) => it.email === email);
    }

    /** Fetches a token for what the lists show. A newer call outruns an older one. */
    renew() {
      clearTimeout(this.#timer);
      const user = this.#persona().email;
      const organization = element('organization').value;
      const renewal = (async () => {
        showSession('waiting', 'Getting a token…');
        this.#token = null;
        this.#renewing = true;
        element('copy-token').hidden = true;
        const query = new URLSearchParams(organization ? { user, org: organization } : { user });
        try {
          const { token, expiresAt } = await getJson(`/dev/token?${query}`);
          if (this.#renewal !== renewal) return;
          this.#token = token;
          this.#expiresAt = Date.parse(expiresAt);
          const left = this.#expiresAt - Date.now();
          this.#timer = setTimeout(() => this.renew(), Math.min(Math.max(left - RENEW_BEFORE_MS, 5_000), 2 ** 31 - 1));
          const until = new Date(this.#expiresAt).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' });
          showSession('ready', user, `The token is valid until ${until} and renewed before that`);
          element('copy-token').hidden = !navigator.clipboard;
        } catch (error) {
          if (this.#renewal === renewal) showSession('failed', 'No token', `/dev/token: ${error.message}`);
        }
        if (this.#renewal === renewal) this.#renewing = false;
      })();
      this.#renewal = renewal;
      return renewal;
    }

    async headers() {
      await this.ready;
      // The server may have been away when the page was opened, and a laptop that slept has let the timer pass.
      if (!this.#personas.length) await (this.ready = this.#load());
      else if (!this.#token || this.#expiresAt - Date.now() < RENEW_BEFORE_MS / 4) this.#renewIfIdle();
      let renewal;
      do await (renewal = this.#renewal);
      while (renewal !== this.#renewal);
      const organization = element('organization').value;
      return {
        ...(this.#token && { authorization: `Bearer ${this.#token}` }),
        ...(organization && { 'x-organization-id': organization }),
      };
    }

    #renewIfIdle() {
      if (!this.#renewing) this.renew();
    }

    /** The server refused the token: whether another try with a new one makes sense. */
    async refused() {
      if (!this.#token) return false;
      await this.renew();
      return this.#token !== null;
    }

    async #copy() {
      await navigator.clipboard.writeText(this.#token);
      element('copy-token').textContent = 'Copied';
      setTimeout(() => (element('copy-token').textContent = 'Copy token'), 1_500);
    }
  }

  /** Identity from a token that the user types in. */
  class Credentials {
    constructor(changed) {
      this.ready = Promise.resolve();
      element('credentials').hidden = false;
      const { token = '', organization = '' } = stored('sessionStorage', REMEMBERED);
      element('token').value = token;
      element('organization-id').value = organization;
      element('credentials').addEventListener('submit', (event) => {
        event.preventDefault();
        this.#use();
        changed();
      });
      this.#use();
    }

    #use() {
      this.token = element('token').value.trim().replace(/^bearer\s+/i, '');
      this.organization = element('organization-id').value.trim();
      store('sessionStorage', REMEMBERED, { token: this.token, organization: this.organization });
      showSession(this.token ? 'ready' : 'none', this.token ? 'Token in use' : 'No token', 'Kept in this browser tab only');
    }

    async headers() {
      return {
        ...(this.token && { authorization: `Bearer ${this.token}` }),
        ...(this.organization && { 'x-organization-id': this.organization }),
      };
    }

    async refused() {
      return false;
    }
  }

  async function getJson(url) {
    const response = await fetch(url, { headers: { accept: 'application/json' }, cache: 'no-store' });
    if (!response.ok) throw new Error(`HTTP ${response.status}`);
    return response.json();
  }

  // ---- The fetcher -----------------------------------------------------------------------------------------------

  const failure = (message, extensions) => ({ errors: [{ message, ...(extensions && { extensions }) }] });
  const lowerCased = (headers) =>
    Object.fromEntries(Object.entries(headers ?? {}).map(([name, value]) => [name.toLowerCase(), String(value)]));

  async function post(identity, request, ownHeaders, mayRetry = true) {
    const headers = {
      accept: 'application/graphql-response+json, application/json',
      'content-type': 'application/json',
      ...(await identity.headers()),
      ...lowerCased(ownHeaders),
    };
    let response;
    try {
      response = await fetch(ENDPOINT, { method: 'POST', headers, body: JSON.stringify(request) });
    } catch {
      return failure('The server cannot be reached.');
    }
    if (response.status === 401 && mayRetry && (await identity.refused())) {
      return post(identity, request, ownHeaders, false);
    }
    const body = await response.text();
    try {
      return JSON.parse(body);
    } catch {
      return failure(`The server answered HTTP ${response.status} without JSON.`, { body: body.slice(0, 500) });
    }
  }

  /** Every running subscription, so that a change of identity ends them. */
  const running = new Set();

  /** Runs one subscription on a socket of its own (graphql-transport-ws) and yields its results. */
  function subscribe(identity, request, ownHeaders) {
    const results = [];
    let done = false;
    let wake = () => {};
    let socket = null;
    // Of the last event: a new connection goes on behind it.
    let lastEventId;

    const push = (result) => {
      results.push(result);
      wake();
    };
    const finish = (result) => {
      if (done) return;
      if (result) push(result);
      done = true;
      running.delete(finish);
      if (socket && socket.readyState <= WebSocket.OPEN) socket.close(1000);
      wake();
    };

    const connect = async () => {
      const payload = { ...(await identity.headers()), ...lowerCased(ownHeaders) };
      if (done) return;
      let acknowledged = 0;
      const current = new WebSocket(SOCKET, 'graphql-transport-ws');
      socket = current;
      const send = (message) => current.send(JSON.stringify(message));
      current.onopen = () => send({ type: 'connection_init', payload });
      current.onmessage = ({ data }) => {
        const message = JSON.parse(data);
        switch (message.type) {
          case 'connection_ack':
            acknowledged = Date.now();
            return send({ id: '1', type: 'subscribe', payload: lastEventId ? { ...request, extensions: { lastEventId } } : request });
          case 'ping':
            return send({ type: 'pong', ...(message.payload && { payload: message.payload }) });
          case 'next':
            lastEventId = message.payload.extensions?.eventId;
            return push(message.payload);
          case 'error':
            return finish({ errors: message.payload });
          case 'complete':
            return finish();
        }
      };
      current.onclose = async ({ code, reason }) => {
        if (done) return;
        // An established connection whose token ran out goes on with a new one.
        const established = acknowledged && Date.now() - acknowledged > 1_000;
        if (code === 4403 && established && (await identity.refused())) return connect();
        const why = reason || (acknowledged ? 'the connection was lost' : 'the connection was refused');
        finish(failure(`The subscription ended: ${why} (${code}).`, { closeCode: code }));
      };
    };

    running.add(finish);
    connect();
    return {
      [Symbol.asyncIterator]() {
        return this;
      },
      async next() {
        while (!results.length && !done) await new Promise((resolve) => (wake = resolve));
        return results.length ? { value: results.shift(), done: false } : { value: undefined, done: true };
      },
      async return() {
        results.length = 0;
        finish();
        return { value: undefined, done: true };
      },
    };
  }

  /** The operations of a document: `{ type, name }`. */
  function operationsOf(source) {
    const text = source.replace(/"""[^]*?"""|"(?:\\.|[^"\\\n])*"|#.*/g, ' ');
    const operations = [];
    let depth = 0;
    let headed = false;
    const tokens = /\b(query|mutation|subscription|fragment)\b(?:\s+([_A-Za-z]\w*))?|[{}()[\]]/g;
    for (const [token, type, name] of text.matchAll(tokens)) {
      if (/^[{([]/.test(token)) {
        if (depth === 0 && token === '{') {
          if (!headed) operations.push({ type: 'query' });
          headed = false;
        }
        depth += 1;
      } else if (/^[})\]]/.test(token)) {
        depth -= 1;
      } else if (depth === 0) {
        headed = true;
        if (type !== 'fragment') operations.push({ type, name });
      }
    }
    return operations;
  }

  /**
   * The request with its operation's type. GraphiQL tracks the operation's name, and the parsed document, with a delay:
   * just after a change of tabs both may still be those of the other tab.
   */
  function resolve({ query, variables, operationName }) {
    const operations = operationsOf(query);
    const chosen = operations.find(({ name }) => name && name === operationName) ?? operations[0];
    const several = operations.length > 1;
    return {
      type: chosen?.type ?? 'query',
      request: { query, variables, operationName: several ? operationName : chosen?.name },
    };
  }

  // ---- GraphiQL --------------------------------------------------------------------------------------------------

  const showSchema = (state, text = '', title = '') => {
    document.documentElement.dataset.schema = state;
    const output = element('schema-state');
    output.hidden = !text;
    output.textContent = text;
    output.title = title;
  };

  function start() {
    const container = element('graphiql');
    const { React, ReactDOM, GraphiQL } = window;
    if (!React || !ReactDOM || !GraphiQL) {
      showSession('failed', 'GraphiQL is not loaded');
      container.replaceChildren(
        Object.assign(document.createElement('p'), {
          className: 'loading failed',
          textContent:
            'GraphiQL could not be loaded. This build does not embed it and takes it from a public CDN, which cannot ' +
            'be reached from here. Build with npm installed to embed it; the API at POST /graphql works all the same.',
        }),
      );
      return;
    }

    let identity = null;
    const makeFetcher = () => async (asked, options) => {
      const { type, request } = resolve(asked);
      if (type === 'subscription') return subscribe(identity, request, options?.headers);
      const result = await post(identity, request, options?.headers);
      if (request.operationName === 'IntrospectionQuery' && !result?.data?.__schema) {
        const reason = result?.errors?.[0]?.message ?? 'no reason given';
        showSchema('unavailable', 'No schema: queries run, without docs and completion', `Introspection: ${reason}`);
      }
      return result;
    };

    const root = ReactDOM.createRoot(container);
    // A new fetcher makes GraphiQL ask for the schema again.
    const render = () => {
      showSchema('loading');
      root.render(
        React.createElement(
          GraphiQL,
          {
            fetcher: makeFetcher(),
            defaultTabs: EXAMPLES,
            defaultEditorToolsVisibility: 'variables',
            // Headers may hold a token: not for localStorage.
            shouldPersistHeaders: false,
            onSchemaChange: () => showSchema('loaded'),
          },
          React.createElement(GraphiQL.Logo, null, null),
        ),
      );
    };

    const changed = () => {
      for (const finish of [...running]) finish(failure('The subscription ended because the identity changed. Run it again.'));
      if (document.documentElement.dataset.schema !== 'loaded') render();
    };
    identity = meta('tenantry-personas') === 'on' ? new Personas(changed) : new Credentials(changed);
    render();
  }

  start();
})();
