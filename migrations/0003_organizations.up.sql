create table organizations (
    id             uuid primary key,
    clerk_org_id   text unique check (char_length(clerk_org_id) between 1 and 255),
    name           text not null check (char_length(name) between 1 and 200),
    slug           text not null unique check (slug ~ '^[a-z0-9](-?[a-z0-9])*$' and char_length(slug) <= 63),
    status         organization_status not null default 'ACTIVE',
    is_personal    boolean not null default false,
    industry       text check (char_length(industry) <= 100),
    support_email  text check (char_length(support_email) between 3 and 320),
    settings       jsonb not null default '{}' check (jsonb_typeof(settings) = 'object'),
    version        integer not null default 1 check (version > 0),
    source_version bigint not null default 0,
    created_at     timestamptz not null default now(),
    updated_at     timestamptz not null default now(),
    deleted_at     timestamptz
);

alter table organizations enable row level security;
alter table organizations force row level security;
create policy tenant on organizations for all to tenantry_app
    using (id = app.current_org()) with check (id = app.current_org());
create policy superadmin on organizations for all to tenantry_superadmin using (true) with check (true);
grant select, update (name, industry, support_email, settings, version, updated_at) on organizations to tenantry_app;
grant all on organizations to tenantry_superadmin;

create index organizations_created_at_idx on organizations (created_at, id);
create index organizations_name_idx on organizations (name, id);
create trigger touch_updated_at before update on organizations for each row execute function app.touch_updated_at();

comment on table organizations is 'Tenants. The plan is on subscriptions; every tenant table refers to this one.';
comment on column organizations.clerk_org_id is 'Id of the organization at Clerk; null when it is not synced from there.';
comment on column organizations.slug is 'Name in addresses; at most 63 characters so that it can be a host label. A deleted organization keeps its slug.';
comment on column organizations.is_personal is 'The workspace a new user gets, with that user as OWNER.';
comment on column organizations.settings is 'JSON object of the tenant''s own settings.';
comment on column organizations.version is 'Optimistic lock: every update by a user adds one; a writer that brings an older number is refused.';
comment on column organizations.source_version is 'Version of the source this row was last synced from (Clerk: envelope timestamp in milliseconds); older events are skipped.';
comment on column organizations.deleted_at is 'Set: the organization is gone for everybody, its rows stay.';
