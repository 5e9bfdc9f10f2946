# Delivers what the official libraries sign, and what localstripe, a fake Stripe, sends:
#   python3 senders.py <packages> <clerk url> <stripe url> <old secret> <new secret>
# Prints the sender and the id of every event that was accepted.
import asyncio
import json
import sys
import time
from datetime import datetime, timezone

packages, clerk, stripe_url, old, renewed = sys.argv[1:]
sys.path.insert(0, packages)

import requests
import standardwebhooks
import stripe


def deliver(sender, url, event_id, body, headers):
    response = requests.post(url, data=body.encode(), headers={"content-type": "application/json", **headers}, timeout=20)
    assert response.status_code == 200, f"{sender}: {response.status_code} {response.text}"
    print(sender, event_id, flush=True)


def libraries():
    for at, secret in enumerate([old, renewed]):
        event_id = f"evt_python_{at}"
        body = json.dumps({"id": event_id, "object": "event", "type": "invoice.paid", "created": int(time.time()),
                           "data": {"object": {"id": "in_python", "customer_name": "Zoë"}}}, ensure_ascii=False)
        header = stripe.WebhookSignature.generate_signature_header(body, secret)
        deliver("STRIPE_PYTHON", stripe_url, event_id, body, {"stripe-signature": header})
        event_id = f"msg_python_{at}"
        now = datetime.now(timezone.utc)
        body = json.dumps({"type": "user.updated", "timestamp": int(time.time() * 1000), "data": {"id": "user_python"}})
        signature = standardwebhooks.Webhook(secret).sign(event_id, now, body)
        deliver("STANDARD_WEBHOOKS_PYTHON", clerk, event_id, body,
                {"webhook-id": event_id, "webhook-timestamp": str(int(now.timestamp())), "webhook-signature": signature})


async def fake_stripe():
    import localstripe.webhooks as webhooks
    from aiohttp import ClientSession, web
    from localstripe.server import app, store

    store.dump_to_disk = lambda *_: None
    # The server tells nobody whether its webhook was accepted, but its log; so the receiver's answers are read here.
    answers = asyncio.Queue()
    send = ClientSession.post

    def watched(session, url, **kwargs):
        request = send(session, url, **kwargs)
        if url != stripe_url:
            return request

        class Watched:
            async def __aenter__(self):
                response = await request.__aenter__()
                await answers.put((json.loads(kwargs["data"]), response.status))
                return response

            async def __aexit__(self, *error):
                return await request.__aexit__(*error)

        return Watched()

    ClientSession.post = watched
    webhooks.register_webhook("tenantry", stripe_url, old, None)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    async with ClientSession() as session:
        for fields in ({"email": "one@example.com"}, {"email": "two@example.com"}):
            made = await send(session, f"http://127.0.0.1:{port}/v1/customers", data=fields,
                              headers={"authorization": "Bearer sk_test_12345"})
            assert made.status == 200, await made.text()
            event, status = await asyncio.wait_for(answers.get(), 20)
            assert status == 200, f"localstripe: {status}"
            assert "pending_webhooks" not in event, event
            print("LOCALSTRIPE", event["id"], flush=True)
    await runner.cleanup()


libraries()
asyncio.run(fake_stripe())
