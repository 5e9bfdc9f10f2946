// Usage: server.cjs <node_modules> <base url> <API key>
const assert = require('node:assert');
const { createRequire } = require('node:module');
const [modules, baseUrl, key] = process.argv.slice(2);
const from = createRequire(`${modules}/`);
const { OpenFeature } = from('@openfeature/server-sdk');
const { OFREPProvider } = from('@openfeature/ofrep-provider');

async function main() {
  const authorized = (token) => new OFREPProvider({ baseUrl, headers: [['Authorization', `Bearer ${token}`]] });
  await OpenFeature.setProviderAndWait(authorized(key));
  const client = OpenFeature.getClient();
  const who = { targetingKey: 'customer-7', email: 'someone@example.com', plan: 'ENTERPRISE' };
  const banner = await client.getBooleanDetails('holiday-banner', false, who);
  assert.deepStrictEqual([banner.value, banner.variant, banner.reason], [true, 'on', 'STATIC']);
  assert.strictEqual(banner.flagMetadata.reasonDetail, 'DEFAULT');
  assert.strictEqual(await client.getStringValue('theme', 'none', who), 'dark');
  assert.strictEqual(await client.getNumberValue('page-size', 1, who), 25);
  assert.deepStrictEqual(await client.getObjectValue('limits', {}, who), { rows: 50, export: true });
  const rollout = await client.getBooleanDetails('suggested-answers', false, who);
  assert.strictEqual(rollout.reason, 'SPLIT');
  // What goes wrong gives the default, and never an exception.
  for (const [flag, context] of [['no-such', who], ['suggested-answers', {}], ['theme', who]]) {
    const failed = await client.getBooleanDetails(flag, true, context);
    assert.deepStrictEqual([failed.value, failed.reason], [true, 'ERROR'], flag);
  }
  await OpenFeature.setProviderAndWait(authorized('nonsense'));
  const refused = await OpenFeature.getClient().getBooleanDetails('holiday-banner', false, who);
  assert.deepStrictEqual([refused.value, refused.reason], [false, 'ERROR']);
  console.log('ALL WELL');
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
