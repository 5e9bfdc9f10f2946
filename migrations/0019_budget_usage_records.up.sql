create table budget_usage_records (
    id              uuid not null,
    organization_id uuid not null references organizations (id),
    budget_id       uuid not null,
    amount_minor    bigint not null check (amount_minor > 0),
    currency        text not null check (currency ~ '^[A-Z]{3}$'),
    kind            budget_usage_kind not null,
    source          text not null check (char_length(source) between 1 and 200),
    resource_id     uuid,
    idempotency_key text check (char_length(idempotency_key) between 1 and 255),
    created_at      timestamptz not null default now(),
    primary key (organization_id, id),
    foreign key (organization_id, budget_id) references budgets (organization_id, id) on delete cascade,
    unique (organization_id, budget_id, idempotency_key)
);

alter table budget_usage_records enable row level security;
alter table budget_usage_records force row level security;
create policy tenant on budget_usage_records for all to tenantry_app
    using (organization_id = app.current_org()) with check (organization_id = app.current_org());
create policy superadmin on budget_usage_records for all to tenantry_superadmin using (true) with check (true);
grant select, insert on budget_usage_records to tenantry_app;
grant all on budget_usage_records to tenantry_superadmin;

create index budget_usage_records_created_at_idx on budget_usage_records (organization_id, created_at, id);
create index budget_usage_records_budget_id_idx on budget_usage_records (organization_id, budget_id, created_at, id);
create index budget_usage_records_resource_id_idx on budget_usage_records (organization_id, resource_id) where resource_id is not null;

comment on table budget_usage_records is 'Every movement of a budget; the sums on budgets follow from it, in the same transaction.';
comment on column budget_usage_records.amount_minor is 'Money in minor units of currency, always positive; kind tells the direction.';
comment on column budget_usage_records.source is 'What caused it, e.g. refund or agent:support.';
comment on column budget_usage_records.resource_id is 'Row that caused it, e.g. the refund; not a foreign key, since source decides the table.';
comment on column budget_usage_records.idempotency_key is 'A second record with the same key for the same budget is refused.';
