-- Client keys: by them an organization's own backend signs for whom its web and mobile clients evaluate feature flags. And the history of flags.

create table tenantry.client_keys (
    id              uuid not null,
    organization_id uuid not null references tenantry.organizations (id),
    name            text not null check (char_length(name) between 1 and 200),
    environment     text not null check (environment ~ '^[a-z0-9](-?[a-z0-9])*$' and char_length(environment) <= 50),
    public_key      bytea not null check (octet_length(public_key) = 32),
    expires_at      timestamptz,
    last_used_at    timestamptz,
    revoked_at      timestamptz,
    created_by      uuid references tenantry.users (id),
    version         integer not null default 1 check (version > 0),
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    primary key (organization_id, id)
);

alter table tenantry.client_keys enable row level security;
alter table tenantry.client_keys force row level security;
create policy tenant on tenantry.client_keys for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.client_keys for all to tenantry_superadmin using (true) with check (true);
grant select, insert, update (revoked_at, version, updated_at) on tenantry.client_keys to tenantry_app;
grant all on tenantry.client_keys to tenantry_superadmin;

create index client_keys_created_at_idx on tenantry.client_keys (organization_id, created_at, id);
create index client_keys_created_by_idx on tenantry.client_keys (organization_id, created_by, created_at, id);
create trigger touch_updated_at before update on tenantry.client_keys for each row execute function tenantry.touch_updated_at();

comment on table tenantry.client_keys is 'Public halves of the keys that sign client tokens: who brings one evaluates flags as the user it names, and nothing else.';
comment on column tenantry.client_keys.environment is 'A label, as `production`.';
comment on column tenantry.client_keys.public_key is 'Ed25519 (RFC 8032). The private half is shown once and stored nowhere.';
comment on column tenantry.client_keys.expires_at is 'Null: never.';
comment on column tenantry.client_keys.last_used_at is 'Written in batches.';
comment on column tenantry.client_keys.version is 'Optimistic lock: every change adds one; a writer that brings an older number is refused.';

-- The history of one definition of a feature flag.
create index platform_audit_logs_flag_idx on tenantry.platform_audit_logs ((metadata ->> 'key'), created_at, id)
    where action like 'feature\_flag.%';
