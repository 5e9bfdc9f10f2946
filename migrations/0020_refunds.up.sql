create table refunds (
    id              uuid not null,
    organization_id uuid not null references organizations (id),
    ticket_id       uuid,
    customer_id     uuid not null,
    amount_minor    bigint not null check (amount_minor > 0),
    currency        text not null check (currency ~ '^[A-Z]{3}$'),
    reason          refund_reason not null,
    note            text check (char_length(note) <= 5000),
    status          refund_status not null default 'REQUESTED',
    requested_by    uuid references users (id),
    decision        decision_action,
    decision_rule_id uuid,
    decided_by      uuid references users (id),
    decision_explanation jsonb,
    decided_at      timestamptz,
    budget_id       uuid,
    idempotency_key text check (char_length(idempotency_key) between 1 and 255),
    stripe_payment_intent_id text check (char_length(stripe_payment_intent_id) between 1 and 255),
    stripe_refund_id text check (char_length(stripe_refund_id) between 1 and 255),
    failure_reason  text check (char_length(failure_reason) <= 2000),
    settled_at      timestamptz,
    version         integer not null default 1 check (version > 0),
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, idempotency_key),
    unique (organization_id, stripe_refund_id),
    foreign key (organization_id, ticket_id) references tickets (organization_id, id),
    foreign key (organization_id, customer_id) references customer_profiles (organization_id, id),
    foreign key (organization_id, decision_rule_id) references decision_rules (organization_id, id),
    foreign key (organization_id, budget_id) references budgets (organization_id, id)
);

alter table refunds enable row level security;
alter table refunds force row level security;
create policy tenant on refunds for all to tenantry_app
    using (organization_id = app.current_org()) with check (organization_id = app.current_org());
create policy superadmin on refunds for all to tenantry_superadmin using (true) with check (true);
grant select, insert, update on refunds to tenantry_app;
grant all on refunds to tenantry_superadmin;

create index refunds_created_at_idx on refunds (organization_id, created_at, id);
create index refunds_updated_at_idx on refunds (organization_id, updated_at, id);
create index refunds_status_idx on refunds (organization_id, status, created_at, id);
create index refunds_amount_idx on refunds (organization_id, amount_minor, id);
create index refunds_ticket_id_idx on refunds (organization_id, ticket_id, created_at, id);
create index refunds_customer_id_idx on refunds (organization_id, customer_id, created_at, id);
create index refunds_budget_id_idx on refunds (organization_id, budget_id, created_at, id);
create index refunds_decision_rule_id_idx on refunds (organization_id, decision_rule_id, created_at, id);
create index refunds_requested_by_idx on refunds (organization_id, requested_by, created_at, id);
create index refunds_decided_by_idx on refunds (organization_id, decided_by, created_at, id);
create trigger touch_updated_at before update on refunds for each row execute function app.touch_updated_at();

comment on table refunds is 'Refunds from the request to the payment.';
comment on column refunds.amount_minor is 'Money in minor units of currency (cents).';
comment on column refunds.note is 'The reason in words.';
comment on column refunds.requested_by is 'User; null: the customer or an agent.';
comment on column refunds.decision is 'What the rules ordered; null: not decided yet.';
comment on column refunds.decision_rule_id is 'The rule that decided; null: none matched, or a person did. A rule that has decided is switched off, not deleted.';
comment on column refunds.decided_by is 'The user who approved or denied after the rules had asked for one.';
comment on column refunds.decision_explanation is 'JSON: the rules tried in rank order and what each said.';
comment on column refunds.budget_id is 'Budget the amount is reserved from.';
comment on column refunds.idempotency_key is 'Given by the client: a repeated request gets the same refund.';
comment on column refunds.stripe_payment_intent_id is 'The payment at Stripe that is given back.';
comment on column refunds.failure_reason is 'What Stripe answered when the payment failed.';
comment on column refunds.version is 'Optimistic lock: every update by a user adds one; a writer that brings an older number is refused.';
