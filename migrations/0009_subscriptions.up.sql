create table subscriptions (
    id              uuid not null,
    organization_id uuid not null references organizations (id),
    stripe_customer_id     text check (char_length(stripe_customer_id) between 1 and 255),
    stripe_subscription_id text check (char_length(stripe_subscription_id) between 1 and 255),
    status                 subscription_status not null default 'ACTIVE',
    plan                   organization_plan not null default 'FREE',
    seat_count             integer not null default 1 check (seat_count >= 0),
    current_period_start   timestamptz,
    current_period_end     timestamptz,
    cancel_at_period_end   boolean not null default false,
    trial_end              timestamptz,
    collection_paused      boolean not null default false,
    source_version         bigint not null default 0,
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id),
    check (current_period_end >= current_period_start)
);

alter table subscriptions enable row level security;
alter table subscriptions force row level security;
create policy tenant on subscriptions for all to tenantry_app
    using (organization_id = app.current_org()) with check (organization_id = app.current_org());
create policy superadmin on subscriptions for all to tenantry_superadmin using (true) with check (true);
grant select on subscriptions to tenantry_app;
grant all on subscriptions to tenantry_superadmin;

create index subscriptions_created_at_idx on subscriptions (organization_id, created_at, id);
create index subscriptions_stripe_customer_id_idx on subscriptions (stripe_customer_id);
create index subscriptions_stripe_subscription_id_idx on subscriptions (stripe_subscription_id);
create trigger touch_updated_at before update on subscriptions for each row execute function app.touch_updated_at();

comment on table subscriptions is 'The one subscription of an organization, as Stripe tells it. Read only for the tenant.';
comment on column subscriptions.plan is 'From the price map, lookup_key or product metadata.';
comment on column subscriptions.seat_count is 'Sum of the quantities of the seat prices.';
comment on column subscriptions.current_period_start is 'Item level at Stripe since 2025-03-31, top level before.';
comment on column subscriptions.collection_paused is 'Stripe pause_collection: the subscription runs, invoices are not collected.';
comment on column subscriptions.source_version is 'Stripe `created` (seconds) and terminal rank of the last event applied; older events are skipped.';
