-- Billing: what people ask of Stripe, invoices, and what Stripe is to be told: seats and usage.

create type tenantry.billing_action_kind as enum ('CHECKOUT', 'PORTAL', 'PLAN_CHANGE', 'CANCEL', 'RESUME');
create type tenantry.billing_action_status as enum ('PENDING', 'DONE', 'FAILED', 'SUPERSEDED');
create type tenantry.invoice_status as enum ('DRAFT', 'OPEN', 'PAID', 'UNCOLLECTIBLE', 'VOID');
create type tenantry.payment_problem_code as enum ('PAYMENT_FAILED', 'ACTION_REQUIRED', 'FINALIZATION_FAILED', 'UNCOLLECTIBLE');

create table tenantry.billing_actions (
    id              uuid not null,
    organization_id uuid not null references tenantry.organizations (id),
    kind            tenantry.billing_action_kind not null,
    status          tenantry.billing_action_status not null default 'PENDING',
    requested_by    uuid references tenantry.users (id),
    request         jsonb not null check (jsonb_typeof(request) = 'object'),
    fingerprint     bytea not null check (octet_length(fingerprint) = 32),
    attempt         integer not null default 1 check (attempt > 0),
    tries           integer not null default 0 check (tries >= 0),
    next_attempt_at timestamptz,
    stripe_id       text check (char_length(stripe_id) between 1 and 255),
    url             text check (char_length(url) <= 5000),
    expires_at      timestamptz,
    failure_code    text check (char_length(failure_code) <= 100),
    failure_message text check (char_length(failure_message) <= 2000),
    finished_at     timestamptz,
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    primary key (organization_id, id),
    check ((status = 'PENDING') = (finished_at is null)),
    check ((status = 'PENDING') = (next_attempt_at is not null))
);
alter table tenantry.billing_actions enable row level security;
alter table tenantry.billing_actions force row level security;
create policy tenant on tenantry.billing_actions for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.billing_actions for all to tenantry_superadmin using (true) with check (true);
grant select, insert on tenantry.billing_actions to tenantry_app;
grant update (status, request, attempt, tries, next_attempt_at, stripe_id, url, expires_at, failure_code, failure_message, finished_at, updated_at)
    on tenantry.billing_actions to tenantry_app;
grant all on tenantry.billing_actions to tenantry_superadmin;
create index billing_actions_created_at_idx on tenantry.billing_actions (organization_id, created_at, id);
create index billing_actions_requested_by_idx on tenantry.billing_actions (organization_id, requested_by, created_at, id);
create index billing_actions_due_idx on tenantry.billing_actions (next_attempt_at) where status = 'PENDING';
create trigger touch_updated_at before update on tenantry.billing_actions for each row execute function tenantry.touch_updated_at();
comment on table tenantry.billing_actions is 'What people asked of Stripe: written before it is sent, so that whoever dies in between leaves something to go on with.';
comment on column tenantry.billing_actions.request is 'What is sent to Stripe until it is over: path and form. The same at every try, because Stripe compares it with what its key was first used for. Afterwards empty: it may hold an address.';
comment on column tenantry.billing_actions.fingerprint is 'SHA-256 of what was asked for, so that a second click is known.';
comment on column tenantry.billing_actions.attempt is 'Part of the key at Stripe. A new one begins when Stripe has answered with an error of its own, which it repeats for the same key.';
comment on column tenantry.billing_actions.tries is 'How often it was sent.';
comment on column tenantry.billing_actions.next_attempt_at is 'When the job goes on with it; null: it is over.';
comment on column tenantry.billing_actions.stripe_id is 'Id at Stripe of the session or the subscription.';
comment on column tenantry.billing_actions.url is 'Where the person goes on: the page of a checkout or of the portal, or the invoice that is to be paid first.';
comment on column tenantry.billing_actions.expires_at is 'Until when url is good.';
comment on column tenantry.billing_actions.failure_code is 'Code of the refusal; while it is pending, of the last failure.';

create table tenantry.invoices (
    id              uuid not null,
    organization_id uuid not null references tenantry.organizations (id),
    stripe_invoice_id      text not null check (char_length(stripe_invoice_id) between 1 and 255),
    stripe_subscription_id text check (char_length(stripe_subscription_id) between 1 and 255),
    number          text check (char_length(number) <= 100),
    status          tenantry.invoice_status not null,
    currency        text not null check (currency ~ '^[A-Z]{3}$'),
    total_minor     bigint not null,
    due_minor       bigint not null,
    paid_minor      bigint not null,
    remaining_minor bigint not null,
    period_start    timestamptz,
    period_end      timestamptz,
    due_at          timestamptz,
    attempts        integer not null default 0 check (attempts >= 0),
    next_attempt_at timestamptz,
    hosted_url      text check (char_length(hosted_url) <= 5000),
    pdf_url         text check (char_length(pdf_url) <= 5000),
    problem         tenantry.payment_problem_code,
    problem_message text check (char_length(problem_message) <= 1000),
    problem_since   timestamptz,
    created_at      timestamptz not null,
    updated_at      timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, stripe_invoice_id),
    check ((problem is null) = (problem_since is null))
);
alter table tenantry.invoices enable row level security;
alter table tenantry.invoices force row level security;
create policy tenant on tenantry.invoices for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.invoices for all to tenantry_superadmin using (true) with check (true);
grant select on tenantry.invoices to tenantry_app;
grant all on tenantry.invoices to tenantry_superadmin;
create index invoices_created_at_idx on tenantry.invoices (organization_id, created_at, id);
create index invoices_stripe_invoice_id_idx on tenantry.invoices (stripe_invoice_id);
create trigger touch_updated_at before update on tenantry.invoices for each row execute function tenantry.touch_updated_at();
comment on table tenantry.invoices is 'Invoices of the platform to the organization, as Stripe tells them. Read only for the tenant.';
comment on column tenantry.invoices.total_minor is 'Money in minor units of currency; negative: a credit.';
comment on column tenantry.invoices.due_minor is 'Money in minor units: what is left to pay after credits.';
comment on column tenantry.invoices.paid_minor is 'Money in minor units.';
comment on column tenantry.invoices.remaining_minor is 'Money in minor units: due less paid.';
comment on column tenantry.invoices.attempts is 'How often Stripe tried to collect.';
comment on column tenantry.invoices.next_attempt_at is 'When Stripe tries again.';
comment on column tenantry.invoices.problem is 'Why it is not paid, while it is not.';
comment on column tenantry.invoices.created_at is 'When Stripe made it.';

alter table tenantry.subscriptions
    add column past_due_since timestamptz,
    add column grace_ended_for timestamptz,
    add column test_clock text check (char_length(test_clock) between 1 and 255);
create index subscriptions_past_due_idx on tenantry.subscriptions (past_due_since) where status = 'PAST_DUE';
comment on column tenantry.subscriptions.past_due_since is 'Since when it is PAST_DUE without a break: by our time, or by that of its test clock; null: it is not.';
comment on column tenantry.subscriptions.grace_ended_for is 'The past_due_since whose grace is over: from then on the plan is FREE until it is paid.';
comment on column tenantry.subscriptions.test_clock is 'Stripe''s test clock whose time counts for it, and not ours.';

-- Whose quantity of seats at Stripe may be another than it should. A row for each transaction: two people who join do not wait for
-- each other.
create table tenantry.seat_marks (
    organization_id uuid not null references tenantry.organizations (id),
    transaction     bigint not null,
    marked_at       timestamptz not null,
    primary key (organization_id, transaction)
);
alter table tenantry.seat_marks enable row level security;
alter table tenantry.seat_marks force row level security;
create policy tenant on tenantry.seat_marks for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.seat_marks for all to tenantry_superadmin using (true) with check (true);
grant select, insert on tenantry.seat_marks to tenantry_app;
grant all on tenantry.seat_marks to tenantry_superadmin;
comment on table tenantry.seat_marks is 'Organizations whose members have changed, as triggers write them down. The job takes the marks away when Stripe has the right quantity.';
comment on column tenantry.seat_marks.transaction is 'The transaction that changed something; 0: the job of the night.';

create function tenantry.mark_seats() returns trigger
    language plpgsql
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
declare
    organization uuid := new.organization_id;
begin
    insert into tenantry.seat_marks (organization_id, transaction, marked_at)
    select s.organization_id, pg_current_xact_id()::text::bigint, now() from tenantry.subscriptions s
     where s.organization_id = organization and s.stripe_subscription_id is not null and s.status in ('ACTIVE', 'TRIALING', 'PAST_DUE')
        on conflict do nothing;
    return null;
end
$$;
comment on function tenantry.mark_seats() is 'Trigger: marks an organization whose number of members may have changed, if it pays for a subscription.';
revoke execute on function tenantry.mark_seats() from public;
create trigger mark_seats after insert or update of role, custom_role_id, deleted_at on tenantry.organization_members for each row execute function tenantry.mark_seats();

-- Usage that Stripe is to count.
create table tenantry.meter_outbox (
    organization_id uuid not null references tenantry.organizations (id),
    record_id       uuid not null,
    amount_minor    bigint not null check (amount_minor > 0),
    currency        text not null check (currency ~ '^[A-Z]{3}$'),
    occurred_at     timestamptz not null,
    tries           integer not null default 0 check (tries >= 0),
    next_attempt_at timestamptz not null,
    problem         text check (char_length(problem) <= 500),
    is_dead         boolean not null default false,
    primary key (organization_id, record_id)
);
alter table tenantry.meter_outbox enable row level security;
alter table tenantry.meter_outbox force row level security;
create policy tenant on tenantry.meter_outbox for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.meter_outbox for all to tenantry_superadmin using (true) with check (true);
grant select, insert on tenantry.meter_outbox to tenantry_app;
grant all on tenantry.meter_outbox to tenantry_superadmin;
create index meter_outbox_due_idx on tenantry.meter_outbox (organization_id, next_attempt_at) where not is_dead;
comment on table tenantry.meter_outbox is 'Usage that Stripe has not been told of yet: written with its record, taken away when Stripe has it.';
comment on column tenantry.meter_outbox.record_id is 'The usage record; its id is the event''s at Stripe, which counts it once.';
comment on column tenantry.meter_outbox.amount_minor is 'Money in minor units of currency: the value of the event.';
comment on column tenantry.meter_outbox.problem is 'Why it was not sent.';
comment on column tenantry.meter_outbox.is_dead is 'It is not tried again: Stripe takes no event that is older than 35 days.';

create function tenantry.queue_usage() returns trigger
    language plpgsql
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
begin
    -- What one statement takes from several budgets is used once. Records that are brought from elsewhere are old, and were counted there.
    insert into tenantry.meter_outbox (organization_id, record_id, amount_minor, currency, occurred_at, next_attempt_at)
    select distinct on (a.organization_id, a.reservation_id) a.organization_id, a.id, a.amount_minor, a.currency, a.created_at, a.created_at
      from added a join tenantry.budgets b on b.organization_id = a.organization_id and b.id = a.budget_id
     where a.kind in ('SPEND', 'SETTLE') and b.type = 'AI_USAGE' and a.created_at > now() - interval '1 day'
       and exists (select from tenantry.subscriptions s
                    where s.organization_id = a.organization_id and s.stripe_subscription_id is not null and s.status in ('ACTIVE', 'TRIALING', 'PAST_DUE'))
     order by a.organization_id, a.reservation_id, a.id
        on conflict do nothing;
    return null;
end
$$;
comment on function tenantry.queue_usage() is 'Trigger: writes down usage that Stripe is to count, in the transaction of its record.';
revoke execute on function tenantry.queue_usage() from public;
create trigger queue_usage after insert on tenantry.budget_usage_records
    referencing new table as added for each statement execute function tenantry.queue_usage();
