// Usage: web.cjs <node_modules> <base url> <API key>
const assert = require('node:assert');
const { createRequire } = require('node:module');
const [modules, baseUrl, key] = process.argv.slice(2);
const from = createRequire(`${modules}/`);
globalThis.EventSource = from('eventsource').EventSource;
const { OpenFeature, ProviderEvents } = from('@openfeature/web-sdk');
const { OFREPWebProvider } = from('@openfeature/ofrep-web-provider');

async function main() {
  const provider = new OFREPWebProvider({ baseUrl, headers: [['Authorization', `Bearer ${key}`]], cacheMode: 'disabled' });
  await OpenFeature.setContext({ targetingKey: 'customer-7', email: 'someone@example.com' });
  await OpenFeature.setProviderAndWait(provider);
  const client = OpenFeature.getClient();
  assert.strictEqual(client.getBooleanValue('holiday-banner', false), true);
  assert.strictEqual(client.getStringDetails('theme', 'none').variant, 'dark');
  assert.strictEqual(client.getNumberValue('page-size', 1), 25);
  assert.deepStrictEqual(client.getObjectValue('limits', {}), { rows: 50, export: true });
  const missing = client.getBooleanDetails('no-such', false);
  assert.deepStrictEqual([missing.value, missing.errorCode], [false, 'FLAG_NOT_FOUND']);
  // Nobody is named: the flag that counts users says so, the others are there.
  await OpenFeature.setContext({});
  assert.strictEqual(client.getBooleanDetails('suggested-answers', false).errorCode, 'TARGETING_KEY_MISSING');
  assert.strictEqual(client.getBooleanValue('holiday-banner', false), true);
  await OpenFeature.setContext({ targetingKey: 'customer-7' });
  const changed = new Promise((resolve) => client.addHandler(ProviderEvents.ConfigurationChanged, resolve));
  console.log('READY');
  const event = await changed;
  assert.deepStrictEqual(event.flagsChanged, ['theme']);
  assert.strictEqual(client.getStringValue('theme', 'none'), 'light');
  await OpenFeature.close();
  console.log('ALL WELL');
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
