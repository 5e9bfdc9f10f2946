create table representatives (
    id              uuid not null,
    organization_id uuid not null references organizations (id),
    user_id         uuid not null references users (id),
    role            representative_role not null default 'AGENT',
    status          representative_status not null default 'OFFLINE',
    skills          text[] not null default '{}' check (cardinality(skills) <= 50),
    capacity        integer not null default 10 check (capacity between 0 and 1000),
    version         integer not null default 1 check (version > 0),
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    deleted_at      timestamptz,
    primary key (organization_id, id),
    unique (organization_id, user_id)
);

alter table representatives enable row level security;
alter table representatives force row level security;
create policy tenant on representatives for all to tenantry_app
    using (organization_id = app.current_org()) with check (organization_id = app.current_org());
create policy superadmin on representatives for all to tenantry_superadmin using (true) with check (true);
grant select, insert, update on representatives to tenantry_app;
grant all on representatives to tenantry_superadmin;

create index representatives_created_at_idx on representatives (organization_id, created_at, id);
create index representatives_role_idx on representatives (organization_id, role, created_at, id);
create index representatives_status_idx on representatives (organization_id, status, created_at, id);
create trigger touch_updated_at before update on representatives for each row execute function app.touch_updated_at();

comment on table representatives is 'Members who work on tickets.';
comment on column representatives.skills is 'Free labels that routing matches against the tags and category of tickets.';
comment on column representatives.capacity is 'Number of open tickets this person takes at once.';
comment on column representatives.version is 'Optimistic lock: every update by a user adds one; a writer that brings an older number is refused.';
