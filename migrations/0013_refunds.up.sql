-- Refunds: who may approve them, what holds their money, how they are paid, and what Stripe says of them.

alter table tenantry.organizations
    add column refund_four_eyes_minor bigint check (refund_four_eyes_minor >= 0),
    add column refund_four_eyes_currency text check (refund_four_eyes_currency ~ '^[A-Z]{3}$'),
    add constraint organizations_refund_four_eyes_check check ((refund_four_eyes_minor is null) = (refund_four_eyes_currency is null));
grant update (refund_four_eyes_minor, refund_four_eyes_currency) on tenantry.organizations to tenantry_app;
comment on column tenantry.organizations.refund_four_eyes_minor is 'Money in minor units: up to this amount whoever requests a refund may approve it; null: never.';
comment on column tenantry.organizations.refund_four_eyes_currency is 'Currency of refund_four_eyes_minor (ISO 4217). Refunds in others need another person.';

alter table tenantry.refunds
    alter column customer_id drop not null,
    alter column status set default 'PENDING_APPROVAL',
    add column needs_another_approver boolean not null default true,
    add column decision_note text check (char_length(decision_note) <= 5000),
    add column reservation_id uuid,
    add column payment_reference text check (char_length(payment_reference) between 1 and 500),
    add column charge_minor bigint check (charge_minor >= 0),
    add column made_in_stripe boolean not null default false,
    add column attempt integer not null default 1 check (attempt > 0),
    add column tries integer not null default 0 check (tries >= 0),
    add column sent_at timestamptz,
    add column next_attempt_at timestamptz,
    add foreign key (organization_id, reservation_id) references tenantry.budget_reservations (organization_id, id),
    add constraint refunds_customer_check check (customer_id is not null or made_in_stripe),
    add constraint refunds_due_check check (next_attempt_at is null or status in ('APPROVED', 'PROCESSING')),
    add constraint refunds_settled_check check ((status = 'SETTLED') = (settled_at is not null));
create index refunds_reservation_id_idx on tenantry.refunds (organization_id, reservation_id);
create index refunds_stripe_payment_intent_id_idx on tenantry.refunds (organization_id, stripe_payment_intent_id, created_at, id);
create index refunds_due_idx on tenantry.refunds (organization_id, next_attempt_at, id) where next_attempt_at is not null;

comment on column tenantry.refunds.customer_id is 'Null only of a refund that was made in Stripe and names no customer.';
comment on column tenantry.refunds.needs_another_approver is 'Four eyes: whoever requested it may not approve it. Decided at the request, so that a new limit is one for new requests.';
comment on column tenantry.refunds.decision_note is 'What the person said who approved or denied.';
comment on column tenantry.refunds.reservation_id is 'What holds the money: open while it waits, settled once it is paid.';
comment on column tenantry.refunds.payment_reference is 'Of a payment that was made by hand, e.g. the number of a transfer.';
comment on column tenantry.refunds.charge_minor is 'Money in minor units: what the payment came to that is given back, as Stripe last said; null: not asked yet.';
comment on column tenantry.refunds.made_in_stripe is 'Nobody asked for it here: Stripe told of it.';
comment on column tenantry.refunds.attempt is 'Names the payment to Stripe: its idempotency key is made of organization, refund and attempt. A new one begins when the last one has failed, or Stripe has forgotten its key.';
comment on column tenantry.refunds.tries is 'How often the payment was begun or asked about in this attempt.';
comment on column tenantry.refunds.sent_at is 'When the idempotency key of this attempt was first sent.';
comment on column tenantry.refunds.next_attempt_at is 'When the worker is to look at it next, also after one that died; null: it is not the worker''s.';
