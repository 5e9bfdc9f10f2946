create table organization_feature_flags (
    id              uuid not null,
    organization_id uuid not null references organizations (id),
    flag_key        text not null references feature_flag_definitions (key) on delete cascade,
    enabled         boolean not null,
    exceeds_plan    boolean not null default false,
    expires_at      timestamptz,
    reason          text check (char_length(reason) <= 2000),
    version         integer not null default 1 check (version > 0),
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, flag_key)
);

alter table organization_feature_flags enable row level security;
alter table organization_feature_flags force row level security;
create policy tenant on organization_feature_flags for all to tenantry_app
    using (organization_id = app.current_org()) with check (organization_id = app.current_org());
create policy superadmin on organization_feature_flags for all to tenantry_superadmin using (true) with check (true);
grant select, insert, update, delete on organization_feature_flags to tenantry_app;
grant all on organization_feature_flags to tenantry_superadmin;

create index organization_feature_flags_created_at_idx on organization_feature_flags (organization_id, created_at, id);
create index organization_feature_flags_flag_key_idx on organization_feature_flags (flag_key);
create trigger touch_updated_at before update on organization_feature_flags for each row execute function app.touch_updated_at();

comment on table organization_feature_flags is 'Overrides of a flag for one organization.';
comment on column organization_feature_flags.exceeds_plan is 'On even below the minimum plan of the flag.';
comment on column organization_feature_flags.expires_at is 'From here on as if the row were not there; null: never.';
comment on column organization_feature_flags.reason is 'Why, in words.';
comment on column organization_feature_flags.version is 'Optimistic lock: every update by a user adds one; a writer that brings an older number is refused.';
