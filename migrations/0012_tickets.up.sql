create table tickets (
    id              uuid not null,
    organization_id uuid not null references organizations (id),
    number          bigint not null check (number > 0),
    customer_id     uuid,
    assignee_id     uuid,
    subject         text not null check (char_length(subject) between 1 and 300),
    description     text not null default '' check (char_length(description) <= 50000),
    status          ticket_status not null default 'NEW',
    priority        ticket_priority not null default 'NORMAL',
    category        ticket_category not null default 'OTHER',
    tags            text[] not null default '{}' check (cardinality(tags) <= 50),
    first_response_due_at timestamptz,
    resolution_due_at     timestamptz,
    first_responded_at    timestamptz,
    resolved_at           timestamptz,
    closed_at             timestamptz,
    sla_paused_at         timestamptz,
    sla_paused_seconds    integer not null default 0 check (sla_paused_seconds >= 0),
    merged_into_id  uuid check (merged_into_id <> id),
    version         integer not null default 1 check (version > 0),
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, number),
    foreign key (organization_id, customer_id) references customer_profiles (organization_id, id),
    foreign key (organization_id, assignee_id) references representatives (organization_id, id),
    foreign key (organization_id, merged_into_id) references tickets (organization_id, id)
);

alter table tickets enable row level security;
alter table tickets force row level security;
create policy tenant on tickets for all to tenantry_app
    using (organization_id = app.current_org()) with check (organization_id = app.current_org());
create policy superadmin on tickets for all to tenantry_superadmin using (true) with check (true);
grant select, insert, update on tickets to tenantry_app;
grant all on tickets to tenantry_superadmin;

create index tickets_created_at_idx on tickets (organization_id, created_at, id);
create index tickets_updated_at_idx on tickets (organization_id, updated_at, id);
create index tickets_status_idx on tickets (organization_id, status, created_at, id);
create index tickets_priority_idx on tickets (organization_id, priority, created_at, id);
create index tickets_category_idx on tickets (organization_id, category, created_at, id);
create index tickets_assignee_id_idx on tickets (organization_id, assignee_id, created_at, id);
create index tickets_customer_id_idx on tickets (organization_id, customer_id, created_at, id);
create index tickets_resolution_due_at_idx on tickets (organization_id, resolution_due_at, id);
create index tickets_merged_into_id_idx on tickets (organization_id, merged_into_id) where merged_into_id is not null;
create trigger touch_updated_at before update on tickets for each row execute function app.touch_updated_at();

comment on table tickets is 'Requests of customers.';
comment on column tickets.number is 'Counts from 1 within the organization, without gaps: from ticket_counters, in the transaction of the insert.';
comment on column tickets.customer_id is 'Customer profile; null: an internal ticket.';
comment on column tickets.assignee_id is 'Representative; null: nobody yet.';
comment on column tickets.description is 'Plain text, at most 50,000 characters.';
comment on column tickets.first_response_due_at is 'SLA: moved by the pauses.';
comment on column tickets.resolution_due_at is 'SLA: moved by the pauses.';
comment on column tickets.first_responded_at is 'First public message of a representative.';
comment on column tickets.sla_paused_at is 'Since when the clocks stand (PENDING_CUSTOMER, ON_HOLD); null: they run.';
comment on column tickets.sla_paused_seconds is 'Seconds of all pauses that have ended.';
comment on column tickets.merged_into_id is 'The ticket this one went into; its own history stays here.';
comment on column tickets.version is 'Optimistic lock: every update by a user adds one; a writer that brings an older number is refused.';
