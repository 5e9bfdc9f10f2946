// Delivers what the official libraries sign: node senders.cjs <node_modules> <clerk url> <stripe url> <old secret> <new secret>
// Prints the sender and the id of every event that was accepted.
const path = require('node:path');
const [modules, clerk, stripe, old, renewed] = process.argv.slice(2);
const load = (name) => require(path.join(modules, name));
const { Webhook: Svix } = load('svix');
const { Webhook: Standard } = load('standardwebhooks');
const Stripe = load('stripe');

async function deliver(sender, url, id, body, headers) {
  const response = await fetch(url, { method: 'POST', body, headers: { 'content-type': 'application/json', ...headers } });
  if (response.status !== 200) throw new Error(`${sender}: ${response.status} ${await response.text()}`);
  console.log(`${sender} ${id}`);
}

(async () => {
  const now = new Date();
  const time = String(Math.floor(now / 1000));
  const user = JSON.stringify({ type: 'user.updated', object: 'event', timestamp: +now, data: { id: 'user_zoe', first_name: 'Zoë 🦀' } });
  for (const [at, secret] of [old, renewed].entries()) {
    const id = `msg_svix_${at}`;
    const signature = new Svix(secret).sign(id, now, user);
    await deliver('SVIX', clerk, id, user, { 'svix-id': id, 'svix-timestamp': time, 'svix-signature': signature });
    const standard = `msg_standard_${at}`;
    const both = `${new Standard(old).sign(standard, now, user)} ${new Standard(renewed).sign(standard, now, user)}`;
    await deliver('STANDARD_WEBHOOKS', clerk, standard, user, { 'webhook-id': standard, 'webhook-timestamp': time, 'webhook-signature': both });
    const event = `evt_node_${at}`;
    const body = JSON.stringify({ id: event, object: 'event', type: 'invoice.paid', created: +time, data: { object: { id: 'in_node', customer_name: 'Zoë' } } }, null, 2);
    const header = Stripe.webhooks.generateTestHeaderString({ payload: body, secret });
    await deliver('STRIPE_NODE', stripe, event, body, { 'stripe-signature': header });
  }
  // And what they would refuse, they are refused.
  const forged = await fetch(stripe, { method: 'POST', body: '{}', headers: { 'stripe-signature': Stripe.webhooks.generateTestHeaderString({ payload: '{}', secret: 'whsec_nobody' }) } });
  if (forged.status !== 401) throw new Error(`forged: ${forged.status}`);
})().catch((error) => { console.error(error); process.exit(1); });
