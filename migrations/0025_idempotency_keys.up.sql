create table idempotency_keys (
    organization_id uuid not null references organizations (id),
    user_id         uuid not null references users (id),
    key             text not null check (char_length(key) between 1 and 255),
    operation       text not null check (char_length(operation) between 1 and 200),
    request_hash    bytea not null,
    resource_id     uuid,
    created_at      timestamptz not null default now(),
    primary key (organization_id, user_id, key)
);

alter table idempotency_keys enable row level security;
alter table idempotency_keys force row level security;
create policy tenant on idempotency_keys for all to tenantry_app
    using (organization_id = app.current_org()) with check (organization_id = app.current_org());
create policy superadmin on idempotency_keys for all to tenantry_superadmin using (true) with check (true);
grant select, insert, update on idempotency_keys to tenantry_app;
grant all on idempotency_keys to tenantry_superadmin;

create index idempotency_keys_created_at_idx on idempotency_keys (organization_id, created_at);
create index idempotency_keys_expiry_idx on idempotency_keys (created_at);

comment on table idempotency_keys is 'Mutations already done: the same key of the same user gets the same answer.';
comment on column idempotency_keys.operation is 'Name of the mutation field.';
comment on column idempotency_keys.request_hash is 'SHA-256 of the arguments: the same key with others is an error.';
comment on column idempotency_keys.resource_id is 'The row the mutation made or changed.';
comment on index idempotency_keys_expiry_idx is 'For the job that clears old keys of all tenants.';
