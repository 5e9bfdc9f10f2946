create table escalations (
    id              uuid not null,
    organization_id uuid not null references organizations (id),
    ticket_id       uuid not null,
    reason          escalation_reason not null,
    note            text check (char_length(note) <= 5000),
    priority        escalation_priority not null default 'NORMAL',
    status          escalation_status not null default 'OPEN',
    escalated_by    uuid references users (id),
    assigned_to     uuid,
    resolution      text check (char_length(resolution) <= 5000),
    resolved_at     timestamptz,
    version         integer not null default 1 check (version > 0),
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    primary key (organization_id, id),
    foreign key (organization_id, ticket_id) references tickets (organization_id, id) on delete cascade,
    foreign key (organization_id, assigned_to) references representatives (organization_id, id)
);

alter table escalations enable row level security;
alter table escalations force row level security;
create policy tenant on escalations for all to tenantry_app
    using (organization_id = app.current_org()) with check (organization_id = app.current_org());
create policy superadmin on escalations for all to tenantry_superadmin using (true) with check (true);
grant select, insert, update on escalations to tenantry_app;
grant all on escalations to tenantry_superadmin;

create index escalations_created_at_idx on escalations (organization_id, created_at, id);
create index escalations_updated_at_idx on escalations (organization_id, updated_at, id);
create index escalations_status_idx on escalations (organization_id, status, created_at, id);
create index escalations_priority_idx on escalations (organization_id, priority, created_at, id);
create index escalations_ticket_id_idx on escalations (organization_id, ticket_id, created_at, id);
create index escalations_assigned_to_idx on escalations (organization_id, assigned_to, created_at, id);
create index escalations_escalated_by_idx on escalations (organization_id, escalated_by, created_at, id);
create trigger touch_updated_at before update on escalations for each row execute function app.touch_updated_at();

comment on table escalations is 'Tickets handed to someone with more say.';
comment on column escalations.note is 'The reason in words.';
comment on column escalations.escalated_by is 'User; null: the system or an agent.';
comment on column escalations.assigned_to is 'Representative; null: nobody yet.';
comment on column escalations.resolution is 'How it ended, in words.';
comment on column escalations.version is 'Optimistic lock: every update by a user adds one; a writer that brings an older number is refused.';
