create table agent_configurations (
    id              uuid not null,
    organization_id uuid not null references organizations (id),
    name            text not null check (char_length(name) between 1 and 200),
    description     text check (char_length(description) <= 5000),
    type            agent_type not null,
    status          agent_status not null default 'DRAFT',
    model_settings  jsonb not null default '{}' check (jsonb_typeof(model_settings) = 'object'),
    thresholds      jsonb not null default '{}' check (jsonb_typeof(thresholds) = 'object'),
    data_sources    jsonb not null default '[]' check (jsonb_typeof(data_sources) = 'array'),
    version         integer not null default 1 check (version > 0),
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    primary key (organization_id, id)
);

alter table agent_configurations enable row level security;
alter table agent_configurations force row level security;
create policy tenant on agent_configurations for all to tenantry_app
    using (organization_id = app.current_org()) with check (organization_id = app.current_org());
create policy superadmin on agent_configurations for all to tenantry_superadmin using (true) with check (true);
grant select, insert, update on agent_configurations to tenantry_app;
grant all on agent_configurations to tenantry_superadmin;

create index agent_configurations_created_at_idx on agent_configurations (organization_id, created_at, id);
create index agent_configurations_name_idx on agent_configurations (organization_id, name, id);
create index agent_configurations_type_idx on agent_configurations (organization_id, type, created_at, id);
create index agent_configurations_status_idx on agent_configurations (organization_id, status, created_at, id);
create trigger touch_updated_at before update on agent_configurations for each row execute function app.touch_updated_at();

comment on table agent_configurations is 'How the AI agents of a tenant are set up.';
comment on column agent_configurations.model_settings is 'JSON object: model, temperature, token limit; handed to the agent as it is.';
comment on column agent_configurations.thresholds is 'JSON object: name of a threshold to its value, e.g. confidence 0 to 1.';
comment on column agent_configurations.data_sources is 'JSON array: what the agent may read.';
comment on column agent_configurations.version is 'Optimistic lock: every update by a user adds one; a writer that brings an older number is refused.';
