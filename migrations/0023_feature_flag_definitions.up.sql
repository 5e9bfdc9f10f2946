create table feature_flag_definitions (
    id                 uuid primary key,
    key                text not null unique check (key ~ '^[a-z0-9]([._-]?[a-z0-9])*$' and char_length(key) <= 100),
    name               text not null check (char_length(name) between 1 and 200),
    description        text check (char_length(description) <= 5000),
    kind               flag_kind not null,
    default_enabled    boolean not null default false,
    minimum_plan       organization_plan,
    rollout_percentage double precision check (rollout_percentage between 0 and 100),
    rollout_unit       flag_rollout_unit not null default 'ORGANIZATION',
    starts_at          timestamptz,
    ends_at            timestamptz,
    owner              text check (char_length(owner) <= 200),
    stale_after        timestamptz,
    version            integer not null default 1 check (version > 0),
    created_at         timestamptz not null default now(),
    updated_at         timestamptz not null default now(),
    check (ends_at > starts_at)
);

alter table feature_flag_definitions enable row level security;
alter table feature_flag_definitions force row level security;
create policy tenant on feature_flag_definitions for select to tenantry_app using (true);
create policy superadmin on feature_flag_definitions for all to tenantry_superadmin using (true) with check (true);
grant select on feature_flag_definitions to tenantry_app;
grant all on feature_flag_definitions to tenantry_superadmin;

create index feature_flag_definitions_created_at_idx on feature_flag_definitions (created_at, id);
create index feature_flag_definitions_name_idx on feature_flag_definitions (name, id);
create trigger touch_updated_at before update on feature_flag_definitions for each row execute function app.touch_updated_at();

comment on table feature_flag_definitions is 'Feature flags of the platform, the same for every tenant. Holds nothing of a tenant: everybody may read it.';
comment on column feature_flag_definitions.key is 'Name in code; never changes.';
comment on column feature_flag_definitions.default_enabled is 'The answer when nothing else decides.';
comment on column feature_flag_definitions.minimum_plan is 'Off below this plan; null: for every plan.';
comment on column feature_flag_definitions.rollout_percentage is '0 to 100, three decimals count (murmur3 of key:unit modulo 100,000); null: no rollout, the default decides.';
comment on column feature_flag_definitions.rollout_unit is 'Whether the rollout picks whole organizations or single users.';
comment on column feature_flag_definitions.starts_at is 'Off before; null: always begun.';
comment on column feature_flag_definitions.ends_at is 'Off from here on; null: never ends.';
comment on column feature_flag_definitions.owner is 'Who is to be asked about this flag.';
comment on column feature_flag_definitions.stale_after is 'From here on the flag should be removed from the code.';
comment on column feature_flag_definitions.version is 'Adds one per change: how instances notice a missed notification.';
