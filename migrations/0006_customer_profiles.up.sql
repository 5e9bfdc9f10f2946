create table customer_profiles (
    id              uuid not null,
    organization_id uuid not null references organizations (id),
    user_id         uuid references users (id),
    email           text not null check (char_length(email) between 3 and 320),
    name            text not null check (char_length(name) between 1 and 200),
    phone           text check (char_length(phone) <= 50),
    company         text check (char_length(company) <= 200),
    tier            account_tier not null default 'STANDARD',
    standing        account_standing not null default 'GOOD',
    lifetime_value_minor bigint not null default 0,
    currency        text not null default 'USD' check (currency ~ '^[A-Z]{3}$'),
    preferences     jsonb not null default '{}' check (jsonb_typeof(preferences) = 'object'),
    context         jsonb not null default '{}' check (jsonb_typeof(context) = 'object'),
    version         integer not null default 1 check (version > 0),
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    deleted_at      timestamptz,
    primary key (organization_id, id),
    unique (organization_id, user_id)
);

alter table customer_profiles enable row level security;
alter table customer_profiles force row level security;
create policy tenant on customer_profiles for all to tenantry_app
    using (organization_id = app.current_org()) with check (organization_id = app.current_org());
create policy superadmin on customer_profiles for all to tenantry_superadmin using (true) with check (true);
-- Everything but user_id, which makes a user row visible and is therefore set outside the tenant.
grant select,
      insert (id, organization_id, email, name, phone, company, tier, standing, lifetime_value_minor, currency,
              preferences, context, version, created_at, updated_at, deleted_at),
      update (email, name, phone, company, tier, standing, lifetime_value_minor, currency,
              preferences, context, version, updated_at, deleted_at)
    on customer_profiles to tenantry_app;
grant all on customer_profiles to tenantry_superadmin;

create unique index customer_profiles_lower_email_key on customer_profiles (organization_id, lower(email)) where deleted_at is null;
create index customer_profiles_created_at_idx on customer_profiles (organization_id, created_at, id);
create index customer_profiles_updated_at_idx on customer_profiles (organization_id, updated_at, id);
create index customer_profiles_name_idx on customer_profiles (organization_id, name, id);
create index customer_profiles_email_idx on customer_profiles (organization_id, email, id);
create index customer_profiles_tier_idx on customer_profiles (organization_id, tier, created_at, id);
create index customer_profiles_lifetime_value_idx on customer_profiles (organization_id, lifetime_value_minor, id);
create trigger touch_updated_at before update on customer_profiles for each row execute function app.touch_updated_at();

comment on table customer_profiles is 'Customers of a tenant, with or without an account of their own.';
comment on column customer_profiles.user_id is 'The account of the customer; null: known by email only.';
comment on column customer_profiles.email is 'Unique per organization among the living, without regard to case.';
comment on column customer_profiles.lifetime_value_minor is 'Money in minor units of currency (cents).';
comment on column customer_profiles.currency is 'ISO 4217 code of lifetime_value_minor.';
comment on column customer_profiles.preferences is 'JSON object: what the customer chose (language, channel).';
comment on column customer_profiles.context is 'JSON object: what the tenant knows (orders, devices), for agents and rules.';
comment on column customer_profiles.version is 'Optimistic lock: every update by a user adds one; a writer that brings an older number is refused.';
