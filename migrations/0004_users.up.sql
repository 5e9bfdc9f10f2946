-- Global: one row per person, whatever the number of organizations. Which users a tenant sees depends on
-- members and customers, so that policy comes with users_visibility, after both tables; until then: none.
create table users (
    id                      uuid primary key,
    clerk_id                text not null unique check (char_length(clerk_id) between 1 and 255),
    email                   text check (char_length(email) between 3 and 320),
    name                    text not null check (char_length(name) between 1 and 200),
    avatar_url              text check (char_length(avatar_url) <= 2048),
    is_superadmin           boolean not null default false,
    current_organization_id uuid references organizations (id),
    source_version          bigint not null default 0,
    created_at              timestamptz not null default now(),
    updated_at              timestamptz not null default now(),
    deleted_at              timestamptz
);

alter table users enable row level security;
alter table users force row level security;
create policy superadmin on users for all to tenantry_superadmin using (true) with check (true);
-- Not current_organization_id: which other organization a colleague is working in is nobody's business here.
grant select (id, clerk_id, email, name, avatar_url, is_superadmin, created_at, updated_at, deleted_at) on users to tenantry_app;
grant all on users to tenantry_superadmin;

create index users_created_at_idx on users (created_at, id);
create index users_name_idx on users (name, id);
create index users_email_idx on users (email, id);
create index users_lower_email_idx on users (lower(email));
create index users_current_organization_id_idx on users (current_organization_id) where current_organization_id is not null;
create trigger touch_updated_at before update on users for each row execute function app.touch_updated_at();

comment on table users is 'People who sign in, across all tenants. Written by the sync only; roles are on organization_members.';
comment on column users.clerk_id is 'The `sub` of the token.';
comment on column users.email is 'Null for who signs in by phone or passkey. Not unique: events of an old and a new account of one address arrive in any order.';
comment on column users.is_superadmin is 'Operator of the platform; means nothing inside a tenant.';
comment on column users.current_organization_id is 'Where the user was last; a hint for the client, not a permission.';
comment on column users.source_version is 'Clerk envelope timestamp in milliseconds of the last event applied; older events are skipped.';
comment on column users.deleted_at is 'Set: the user cannot sign in; what they wrote stays theirs.';
