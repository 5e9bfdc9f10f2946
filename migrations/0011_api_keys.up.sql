create table api_keys (
    id              uuid not null,
    organization_id uuid not null references organizations (id),
    name            text not null check (char_length(name) between 1 and 200),
    prefix          text not null check (char_length(prefix) between 4 and 32),
    key_hash        bytea not null,
    scopes          text[] not null default '{}' check (cardinality(scopes) <= 100),
    expires_at      timestamptz,
    last_used_at    timestamptz,
    revoked_at      timestamptz,
    created_by      uuid references users (id),
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, prefix)
);

alter table api_keys enable row level security;
alter table api_keys force row level security;
create policy tenant on api_keys for all to tenantry_app
    using (organization_id = app.current_org()) with check (organization_id = app.current_org());
create policy superadmin on api_keys for all to tenantry_superadmin using (true) with check (true);
grant select (id, organization_id, name, prefix, scopes, expires_at, last_used_at, revoked_at, created_by, created_at, updated_at),
      insert, update on api_keys to tenantry_app;
grant all on api_keys to tenantry_superadmin;

create index api_keys_created_at_idx on api_keys (organization_id, created_at, id);
create index api_keys_name_idx on api_keys (organization_id, name, id);
create index api_keys_created_by_idx on api_keys (organization_id, created_by, created_at, id);
create index api_keys_prefix_idx on api_keys (prefix);
create trigger touch_updated_at before update on api_keys for each row execute function app.touch_updated_at();

comment on table api_keys is 'Keys for programs. The tenant follows from the key.';
comment on column api_keys.prefix is 'The readable beginning of the key: shown in lists, and how a key is found.';
comment on column api_keys.key_hash is 'SHA-256 of the whole key; the key is shown once and stored nowhere. The application role can write but not read it.';
comment on column api_keys.scopes is 'Permissions of the key; empty: none.';
comment on column api_keys.expires_at is 'Null: never.';
comment on column api_keys.last_used_at is 'Written at most once a minute per key.';
comment on index api_keys_prefix_idx is 'Who brings a key has no tenant yet: read by the superadmin role.';
