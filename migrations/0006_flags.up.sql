-- Feature flags of the platform and their overrides for one organization.

create type tenantry.flag_kind as enum ('RELEASE', 'ENTITLEMENT', 'KILL_SWITCH');
comment on type tenantry.flag_kind is 'What a feature flag is for.';
create type tenantry.flag_rollout_unit as enum ('ORGANIZATION', 'USER');
comment on type tenantry.flag_rollout_unit is 'What a percentage rollout counts.';

create type tenantry.flag_value_type as enum ('BOOLEAN', 'STRING', 'NUMBER', 'OBJECT');
comment on type tenantry.flag_value_type is 'What the variants of a feature flag are.';
create type tenantry.flag_override_source as enum ('ORGANIZATION', 'GRANT', 'STRIPE');
comment on type tenantry.flag_override_source is 'Who said that an organization has a flag other than the definition says.';

create table tenantry.feature_flag_definitions (
    id                 uuid primary key,
    key                text not null unique check (key ~ '^[A-Za-z0-9]([._-]?[A-Za-z0-9])*$' and char_length(key) <= 100),
    name               text not null check (char_length(name) between 1 and 200),
    description        text check (char_length(description) <= 5000),
    kind               tenantry.flag_kind not null,
    value_type         tenantry.flag_value_type not null default 'BOOLEAN',
    variants           jsonb not null default '[]' check (jsonb_typeof(variants) = 'array' and octet_length(variants::text) <= 262144),
    off_variant        text,
    default_enabled    boolean not null default false,
    minimum_plan       tenantry.organization_plan,
    rollout_percentage double precision check (rollout_percentage between 0 and 100),
    rollout_unit       tenantry.flag_rollout_unit not null default 'ORGANIZATION',
    starts_at          timestamptz,
    ends_at            timestamptz,
    owner              text check (char_length(owner) <= 200),
    stale_after        timestamptz,
    version            integer not null default 1 check (version > 0),
    created_at         timestamptz not null default now(),
    updated_at         timestamptz not null default now(),
    check (ends_at > starts_at),
    check ((value_type = 'BOOLEAN') = (variants = '[]' and off_variant is null))
);

alter table tenantry.feature_flag_definitions enable row level security;
alter table tenantry.feature_flag_definitions force row level security;
create policy tenant on tenantry.feature_flag_definitions for select to tenantry_app using (true);
create policy superadmin on tenantry.feature_flag_definitions for all to tenantry_superadmin using (true) with check (true);
grant select on tenantry.feature_flag_definitions to tenantry_app;
grant all on tenantry.feature_flag_definitions to tenantry_superadmin;

create index feature_flag_definitions_created_at_idx on tenantry.feature_flag_definitions (created_at, id);
create index feature_flag_definitions_name_idx on tenantry.feature_flag_definitions (name, id);
create trigger touch_updated_at before update on tenantry.feature_flag_definitions for each row execute function tenantry.touch_updated_at();

comment on table tenantry.feature_flag_definitions is 'Feature flags of the platform, the same for every tenant. Holds nothing of a tenant: everybody may read it.';
comment on column tenantry.feature_flag_definitions.key is 'Name in code; never changes.';
comment on column tenantry.feature_flag_definitions.value_type is 'What the variants are. A boolean flag has none of its own: its variants are on and off.';
comment on column tenantry.feature_flag_definitions.variants is '[{"name", "value", "weight"}]: who has the flag on has one of these, by weight.';
comment on column tenantry.feature_flag_definitions.off_variant is 'The name of the variant of those who have the flag off.';
comment on column tenantry.feature_flag_definitions.default_enabled is 'The answer when nothing else decides.';
comment on column tenantry.feature_flag_definitions.minimum_plan is 'Off below this plan; null: for every plan.';
comment on column tenantry.feature_flag_definitions.rollout_percentage is '0 to 100, three decimals count (murmur3 of key:unit modulo 100,000); null: no rollout, the default decides.';
comment on column tenantry.feature_flag_definitions.rollout_unit is 'Whether the rollout picks whole organizations or single users.';
comment on column tenantry.feature_flag_definitions.starts_at is 'Off before; null: always begun.';
comment on column tenantry.feature_flag_definitions.ends_at is 'Off from here on; null: never ends.';
comment on column tenantry.feature_flag_definitions.owner is 'Who is to be asked about this flag.';
comment on column tenantry.feature_flag_definitions.stale_after is 'From here on the flag should be removed from the code.';
comment on column tenantry.feature_flag_definitions.version is 'Adds one per change: how instances notice a missed notification.';

create table tenantry.organization_feature_flags (
    id              uuid not null,
    organization_id uuid not null references tenantry.organizations (id),
    flag_key        text not null references tenantry.feature_flag_definitions (key) on delete cascade,
    source          tenantry.flag_override_source not null default 'ORGANIZATION',
    enabled         boolean not null,
    variant         text,
    exceeds_plan    boolean not null default false,
    expires_at      timestamptz,
    reason          text check (char_length(reason) <= 2000),
    version         integer not null default 1 check (version > 0),
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, flag_key),
    check (not exceeds_plan or source <> 'ORGANIZATION')
);

alter table tenantry.organization_feature_flags enable row level security;
alter table tenantry.organization_feature_flags force row level security;
create policy tenant on tenantry.organization_feature_flags for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.organization_feature_flags for all to tenantry_superadmin using (true) with check (true);
grant select, insert, update, delete on tenantry.organization_feature_flags to tenantry_app;
grant all on tenantry.organization_feature_flags to tenantry_superadmin;

create index organization_feature_flags_created_at_idx on tenantry.organization_feature_flags (organization_id, created_at, id);
create index organization_feature_flags_flag_key_idx on tenantry.organization_feature_flags (flag_key);
create trigger touch_updated_at before update on tenantry.organization_feature_flags for each row execute function tenantry.touch_updated_at();

comment on table tenantry.organization_feature_flags is 'Overrides of a flag for one organization.';
comment on column tenantry.organization_feature_flags.source is 'Its administrators, an operator of the platform, or an entitlement at Stripe.';
comment on column tenantry.organization_feature_flags.variant is 'The variant that the organization has while the flag is on for it; null: the weights decide.';
comment on column tenantry.organization_feature_flags.exceeds_plan is 'On even below the minimum plan of the flag.';
comment on column tenantry.organization_feature_flags.expires_at is 'From here on as if the row were not there; null: never.';
comment on column tenantry.organization_feature_flags.reason is 'Why, in words.';
comment on column tenantry.organization_feature_flags.version is 'Optimistic lock: every update by a user adds one; a writer that brings an older number is refused.';

-- When a flag was last asked for: written in batches, so a crash loses some.
create table tenantry.feature_flag_usage (
    organization_id   uuid not null references tenantry.organizations (id),
    flag_key          text not null references tenantry.feature_flag_definitions (key) on delete cascade,
    evaluations       bigint not null check (evaluations > 0),
    last_evaluated_at timestamptz not null,
    primary key (organization_id, flag_key)
);

alter table tenantry.feature_flag_usage enable row level security;
alter table tenantry.feature_flag_usage force row level security;
create policy tenant on tenantry.feature_flag_usage for select to tenantry_app using (organization_id = tenantry.current_org());
create policy superadmin on tenantry.feature_flag_usage for all to tenantry_superadmin using (true) with check (true);
grant select on tenantry.feature_flag_usage to tenantry_app;
grant all on tenantry.feature_flag_usage to tenantry_superadmin;
create index feature_flag_usage_flag_key_idx on tenantry.feature_flag_usage (flag_key, last_evaluated_at);

comment on table tenantry.feature_flag_usage is 'How often, and when last, an organization asked for a flag.';
comment on column tenantry.feature_flag_usage.evaluations is 'Evaluations so far.';
comment on column tenantry.feature_flag_usage.last_evaluated_at is 'Time of the last one that was written.';
