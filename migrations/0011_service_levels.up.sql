-- Service levels: business hours, policies and their revisions, and what happened to the clocks of tickets.

create type tenantry.sla_target as enum ('FIRST_RESPONSE', 'NEXT_RESPONSE', 'RESOLUTION');
comment on type tenantry.sla_target is 'What a ticket is due for.';
create type tenantry.sla_event_kind as enum ('WARNING', 'BREACH');
comment on type tenantry.sla_event_kind is 'What happened to a service level.';
create type tenantry.sla_reaction as enum ('NONE', 'EVENT', 'ESCALATION', 'BOTH');
comment on type tenantry.sla_reaction is 'What follows from a warning or a breach.';

create table tenantry.business_calendars (
    id              uuid not null,
    organization_id uuid not null references tenantry.organizations (id),
    name            text not null check (char_length(name) between 1 and 100),
    calendar        jsonb not null check (jsonb_typeof(calendar) = 'object' and pg_column_size(calendar) <= 262144),
    version         integer not null default 1 check (version > 0),
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    primary key (organization_id, id)
);
alter table tenantry.business_calendars enable row level security;
alter table tenantry.business_calendars force row level security;
create policy tenant on tenantry.business_calendars for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.business_calendars for all to tenantry_superadmin using (true) with check (true);
grant select, insert, update, delete on tenantry.business_calendars to tenantry_app;
grant all on tenantry.business_calendars to tenantry_superadmin;
create index business_calendars_name_idx on tenantry.business_calendars (organization_id, name, id);
create index business_calendars_created_at_idx on tenantry.business_calendars (organization_id, created_at, id);
create trigger touch_updated_at before update on tenantry.business_calendars for each row execute function tenantry.touch_updated_at();
comment on table tenantry.business_calendars is 'When business is done.';
comment on column tenantry.business_calendars.calendar is 'JSON object: timeZone (IANA), hours (day, from and to in minutes since midnight, the end exclusive), holidays (date to name).';
comment on column tenantry.business_calendars.version is 'Optimistic lock: every update by a user adds one; a writer that brings an older number is refused.';

create table tenantry.sla_policies (
    id              uuid not null,
    organization_id uuid not null references tenantry.organizations (id),
    name            text not null check (char_length(name) between 1 and 100),
    rank            integer not null check (rank between 0 and 1000000),
    priorities      tenantry.ticket_priority[] not null default '{}',
    tiers           tenantry.account_tier[] not null default '{}',
    categories      tenantry.ticket_category[] not null default '{}',
    calendar_id     uuid,
    first_response_minutes integer check (first_response_minutes between 1 and 527040),
    next_response_minutes  integer check (next_response_minutes between 1 and 527040),
    resolution_minutes     integer check (resolution_minutes between 1 and 527040),
    warning_percent integer check (warning_percent between 1 and 99),
    on_warning      tenantry.sla_reaction not null default 'EVENT',
    on_breach       tenantry.sla_reaction not null default 'EVENT',
    revision        integer not null default 1 check (revision > 0),
    archived_at     timestamptz,
    version         integer not null default 1 check (version > 0),
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    primary key (organization_id, id),
    foreign key (organization_id, calendar_id) references tenantry.business_calendars (organization_id, id)
);
alter table tenantry.sla_policies enable row level security;
alter table tenantry.sla_policies force row level security;
create policy tenant on tenantry.sla_policies for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.sla_policies for all to tenantry_superadmin using (true) with check (true);
grant select, insert, update on tenantry.sla_policies to tenantry_app;
grant all on tenantry.sla_policies to tenantry_superadmin;
create index sla_policies_rank_idx on tenantry.sla_policies (organization_id, rank, id);
create index sla_policies_created_at_idx on tenantry.sla_policies (organization_id, created_at, id);
create index sla_policies_calendar_id_idx on tenantry.sla_policies (organization_id, calendar_id, created_at, id);
create trigger touch_updated_at before update on tenantry.sla_policies for each row execute function tenantry.touch_updated_at();
comment on table tenantry.sla_policies is 'What is promised for which tickets. The first that matches, by rank, counts.';
comment on column tenantry.sla_policies.priorities is 'Empty: any.';
comment on column tenantry.sla_policies.tiers is 'Of the customer; empty: any, also no customer.';
comment on column tenantry.sla_policies.categories is 'Empty: any.';
comment on column tenantry.sla_policies.calendar_id is 'Null: around the clock.';
comment on column tenantry.sla_policies.first_response_minutes is 'Of business time; null: nothing is promised. At most 366 days.';
comment on column tenantry.sla_policies.warning_percent is 'How much of the time has passed when a warning is given; null: none.';
comment on column tenantry.sla_policies.revision is 'The row of sla_revisions that holds what is promised now.';
comment on column tenantry.sla_policies.version is 'Optimistic lock: every update by a user adds one; a writer that brings an older number is refused.';

create table tenantry.sla_revisions (
    organization_id uuid not null references tenantry.organizations (id),
    policy_id       uuid not null,
    revision        integer not null check (revision > 0),
    first_response_minutes integer,
    next_response_minutes  integer,
    resolution_minutes     integer,
    warning_percent integer,
    on_warning      tenantry.sla_reaction not null,
    on_breach       tenantry.sla_reaction not null,
    calendar        jsonb,
    valid_from      timestamptz not null,
    superseded_at   timestamptz,
    drained_at      timestamptz,
    primary key (organization_id, policy_id, revision),
    foreign key (organization_id, policy_id) references tenantry.sla_policies (organization_id, id)
);
alter table tenantry.sla_revisions enable row level security;
alter table tenantry.sla_revisions force row level security;
create policy tenant on tenantry.sla_revisions for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.sla_revisions for all to tenantry_superadmin using (true) with check (true);
grant select, insert, update (superseded_at) on tenantry.sla_revisions to tenantry_app;
grant all on tenantry.sla_revisions to tenantry_superadmin;
create index sla_revisions_superseded_idx on tenantry.sla_revisions (organization_id, policy_id, revision)
    where superseded_at is not null and drained_at is null;
comment on table tenantry.sla_revisions is 'What a policy promised from when on. Rows do not change: clocks that ran under one are reckoned with it until the next.';
comment on column tenantry.sla_revisions.calendar is 'The calendar as it was; null: around the clock.';
comment on column tenantry.sla_revisions.superseded_at is 'When another revision took its place; null: it is the current one.';
comment on column tenantry.sla_revisions.drained_at is 'When the job found no ticket under it any more.';

alter table tenantry.tickets
    add column sla_policy_id uuid,
    add column sla_revision integer,
    add column sla_breached_at timestamptz,
    add column sla_check_at timestamptz default 'epoch',
    add foreign key (organization_id, sla_policy_id, sla_revision) references tenantry.sla_revisions (organization_id, policy_id, revision),
    add check ((sla_policy_id is null) = (sla_revision is null));
comment on column tenantry.tickets.sla_policy_id is 'The policy that the ticket is under; null: the built-in terms of its priority.';
comment on column tenantry.tickets.sla_revision is 'The revision of the policy that the due times are reckoned with.';
comment on column tenantry.tickets.sla_breached_at is 'The first due time that was missed; null: none was.';
comment on column tenantry.tickets.sla_check_at is 'When the job looks for a warning or a breach; epoch: it never looked; null: the clocks stand still.';
create index tickets_sla_check_at_idx on tenantry.tickets (organization_id, sla_check_at) where sla_check_at is not null;
create index tickets_sla_breached_at_idx on tenantry.tickets (organization_id, sla_breached_at) where sla_breached_at is not null;
create index tickets_sla_policy_id_idx on tenantry.tickets (organization_id, sla_policy_id, sla_revision)
    where sla_policy_id is not null and closed_at is null;

create table tenantry.sla_events (
    id              uuid not null,
    organization_id uuid not null references tenantry.organizations (id),
    ticket_id       uuid not null,
    target          tenantry.sla_target not null,
    kind            tenantry.sla_event_kind not null,
    policy_id       uuid,
    started_at      timestamptz not null,
    due_at          timestamptz not null,
    is_silent       boolean not null default false,
    created_at      timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, ticket_id, target, kind, started_at),
    foreign key (organization_id, ticket_id) references tenantry.tickets (organization_id, id) on delete cascade,
    foreign key (organization_id, policy_id) references tenantry.sla_policies (organization_id, id)
);
alter table tenantry.sla_events enable row level security;
alter table tenantry.sla_events force row level security;
create policy tenant on tenantry.sla_events for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.sla_events for all to tenantry_superadmin using (true) with check (true);
grant select on tenantry.sla_events to tenantry_app;
grant all on tenantry.sla_events to tenantry_superadmin;
create index sla_events_created_at_idx on tenantry.sla_events (organization_id, created_at, id);
create index sla_events_ticket_id_idx on tenantry.sla_events (organization_id, ticket_id, created_at, id);
create index sla_events_policy_id_idx on tenantry.sla_events (organization_id, policy_id, created_at, id);
comment on table tenantry.sla_events is 'Warnings and breaches of service levels, each once for each clock of a ticket.';
comment on column tenantry.sla_events.policy_id is 'The policy at that time; null: the built-in terms.';
comment on column tenantry.sla_events.started_at is 'When the clock began: the creation of the ticket, or the first question without an answer.';
comment on column tenantry.sla_events.due_at is 'The deadline.';
comment on column tenantry.sla_events.is_silent is 'It was late before the server first looked at the ticket: nobody was told.';
