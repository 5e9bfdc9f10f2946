create table budgets (
    id              uuid not null,
    organization_id uuid not null references organizations (id),
    type            budget_type not null,
    name            text not null check (char_length(name) between 1 and 200),
    period          budget_period not null,
    starts_at       timestamptz not null,
    ends_at         timestamptz not null,
    limit_minor     bigint not null check (limit_minor >= 0),
    spent_minor     bigint not null default 0 check (spent_minor >= 0),
    reserved_minor  bigint not null default 0 check (reserved_minor >= 0),
    currency        text not null check (currency ~ '^[A-Z]{3}$'),
    is_hard_limit   boolean not null default true,
    alert_thresholds jsonb not null default '[50, 80, 100]' check (jsonb_typeof(alert_thresholds) = 'array'),
    alerted_percent integer not null default 0 check (alerted_percent >= 0),
    rollover        boolean not null default false,
    version         integer not null default 1 check (version > 0),
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    primary key (organization_id, id),
    constraint budgets_period_check check (ends_at > starts_at),
    constraint budgets_hard_limit_check check (not is_hard_limit or spent_minor + reserved_minor <= limit_minor)
);

alter table budgets enable row level security;
alter table budgets force row level security;
create policy tenant on budgets for all to tenantry_app
    using (organization_id = app.current_org()) with check (organization_id = app.current_org());
create policy superadmin on budgets for all to tenantry_superadmin using (true) with check (true);
grant select, insert, update on budgets to tenantry_app;
grant all on budgets to tenantry_superadmin;

create index budgets_created_at_idx on budgets (organization_id, created_at, id);
create index budgets_type_idx on budgets (organization_id, type, starts_at, id);
create index budgets_starts_at_idx on budgets (organization_id, starts_at, id);
create index budgets_ends_at_idx on budgets (organization_id, ends_at, id);
create index budgets_name_idx on budgets (organization_id, name, id);
create trigger touch_updated_at before update on budgets for each row execute function app.touch_updated_at();

comment on table budgets is 'Money a tenant allows for a purpose and a period.';
comment on column budgets.starts_at is 'First instant of the period.';
comment on column budgets.ends_at is 'First instant after the period.';
comment on column budgets.limit_minor is 'Money in minor units of currency (cents).';
comment on column budgets.spent_minor is 'Money in minor units: sum of SPEND and SETTLE.';
comment on column budgets.reserved_minor is 'Money in minor units: set aside by RESERVE, not yet settled or released.';
comment on column budgets.currency is 'ISO 4217 code of the amounts of this budget and of its records.';
comment on column budgets.is_hard_limit is 'The database itself refuses spent + reserved above the limit; soft: only alerts.';
comment on column budgets.alert_thresholds is 'JSON array of percentages of the limit at which an alert is due.';
comment on column budgets.alerted_percent is 'Highest threshold already announced, so that each fires once.';
comment on column budgets.rollover is 'What is left goes into the next period.';
comment on column budgets.version is 'Optimistic lock: every update by a user adds one; a writer that brings an older number is refused.';
