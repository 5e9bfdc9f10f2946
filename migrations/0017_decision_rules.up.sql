create table decision_rules (
    id              uuid not null,
    organization_id uuid not null references organizations (id),
    agent_id        uuid not null,
    name            text not null check (char_length(name) between 1 and 200),
    rank            integer not null check (rank >= 0),
    conditions      jsonb not null,
    action          decision_action not null,
    enabled         boolean not null default true,
    version         integer not null default 1 check (version > 0),
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    primary key (organization_id, id),
    foreign key (organization_id, agent_id) references agent_configurations (organization_id, id) on delete cascade,
    -- Deferrable: several rules trade places in one statement or transaction.
    unique (organization_id, agent_id, rank) deferrable initially immediate
);

alter table decision_rules enable row level security;
alter table decision_rules force row level security;
create policy tenant on decision_rules for all to tenantry_app
    using (organization_id = app.current_org()) with check (organization_id = app.current_org());
create policy superadmin on decision_rules for all to tenantry_superadmin using (true) with check (true);
grant select, insert, update, delete on decision_rules to tenantry_app;
grant all on decision_rules to tenantry_superadmin;

create index decision_rules_created_at_idx on decision_rules (organization_id, created_at, id);
create index decision_rules_agent_id_idx on decision_rules (organization_id, agent_id, created_at, id);
create trigger touch_updated_at before update on decision_rules for each row execute function app.touch_updated_at();

comment on table decision_rules is 'Rules an agent decides by: the first enabled one whose conditions hold, in the order of rank.';
comment on column decision_rules.rank is 'Lowest first; unique per agent.';
comment on column decision_rules.conditions is 'JsonLogic expression over the request.';
comment on column decision_rules.version is 'Optimistic lock: every update by a user adds one; a writer that brings an older number is refused.';
