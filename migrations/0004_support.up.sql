-- Customers and what the organization does for them: representatives, tickets, escalations and their figures.

create type tenantry.representative_role as enum ('AGENT', 'SENIOR_AGENT', 'TEAM_LEAD', 'SUPERVISOR');
comment on type tenantry.representative_role is 'Rank of a representative.';
create type tenantry.representative_status as enum ('ONLINE', 'AWAY', 'BUSY', 'OFFLINE');
comment on type tenantry.representative_status is 'Presence of a representative.';
create type tenantry.account_tier as enum ('STANDARD', 'PREMIUM', 'VIP');
comment on type tenantry.account_tier is 'Tier of a customer.';
create type tenantry.account_standing as enum ('GOOD', 'WATCH', 'RESTRICTED', 'BLOCKED');
comment on type tenantry.account_standing is 'Standing of a customer.';
create type tenantry.ticket_status as enum ('NEW', 'OPEN', 'PENDING_CUSTOMER', 'ON_HOLD', 'RESOLVED', 'CLOSED');
comment on type tenantry.ticket_status is 'The SLA clocks stop in PENDING_CUSTOMER and ON_HOLD.';
create type tenantry.ticket_priority as enum ('LOW', 'NORMAL', 'HIGH', 'URGENT');
comment on type tenantry.ticket_priority is 'Lowest first: comparison with < and > follows this order.';
create type tenantry.ticket_category as enum ('BILLING', 'TECHNICAL_ISSUE', 'ACCOUNT', 'ORDER', 'FEATURE_REQUEST', 'OTHER');
comment on type tenantry.ticket_category is 'Subject matter of a ticket.';
create type tenantry.escalation_priority as enum ('LOW', 'NORMAL', 'HIGH', 'URGENT');
comment on type tenantry.escalation_priority is 'Lowest first.';
create type tenantry.escalation_status as enum ('OPEN', 'ASSIGNED', 'IN_PROGRESS', 'RESOLVED', 'CANCELLED');
comment on type tenantry.escalation_status is 'Life cycle of an escalation.';
create type tenantry.escalation_reason as enum ('SLA_BREACH', 'CUSTOMER_REQUEST', 'TECHNICAL_COMPLEXITY', 'POLICY_EXCEPTION', 'HIGH_VALUE_CUSTOMER', 'OTHER');
comment on type tenantry.escalation_reason is 'Why a ticket was escalated.';
create type tenantry.metric_period as enum ('HOUR', 'DAY', 'WEEK', 'MONTH');
comment on type tenantry.metric_period is 'Length of a metrics row.';
create type tenantry.performance_trend as enum ('UP', 'DOWN', 'FLAT');
comment on type tenantry.performance_trend is 'Against the period before.';

-- The place of a value in its type, for the generated columns `<column>_rank`. A function and not a `case` in the column:
-- PostgreSQL reads a column's expression anew for every statement that writes the table.
create function tenantry.rank_of(value tenantry.account_tier) returns smallint language plpgsql immutable strict parallel safe as $$
begin
    return case value when 'STANDARD' then 0 when 'PREMIUM' then 1 when 'VIP' then 2 end;
end $$;
create function tenantry.rank_of(value tenantry.ticket_status) returns smallint language plpgsql immutable strict parallel safe as $$
begin
    return case value when 'NEW' then 0 when 'OPEN' then 1 when 'PENDING_CUSTOMER' then 2 when 'ON_HOLD' then 3 when 'RESOLVED' then 4 when 'CLOSED' then 5 end;
end $$;
create function tenantry.rank_of(value tenantry.ticket_priority) returns smallint language plpgsql immutable strict parallel safe as $$
begin
    return case value when 'LOW' then 0 when 'NORMAL' then 1 when 'HIGH' then 2 when 'URGENT' then 3 end;
end $$;
create function tenantry.rank_of(value tenantry.ticket_category) returns smallint language plpgsql immutable strict parallel safe as $$
begin
    return case value when 'BILLING' then 0 when 'TECHNICAL_ISSUE' then 1 when 'ACCOUNT' then 2 when 'ORDER' then 3 when 'FEATURE_REQUEST' then 4 when 'OTHER' then 5 end;
end $$;
create function tenantry.rank_of(value tenantry.escalation_priority) returns smallint language plpgsql immutable strict parallel safe as $$
begin
    return case value when 'LOW' then 0 when 'NORMAL' then 1 when 'HIGH' then 2 when 'URGENT' then 3 end;
end $$;
create function tenantry.rank_of(value tenantry.escalation_status) returns smallint language plpgsql immutable strict parallel safe as $$
begin
    return case value when 'OPEN' then 0 when 'ASSIGNED' then 1 when 'IN_PROGRESS' then 2 when 'RESOLVED' then 3 when 'CANCELLED' then 4 end;
end $$;
comment on function tenantry.rank_of(tenantry.account_tier) is 'Place of the value in its type, from 0.';
comment on function tenantry.rank_of(tenantry.ticket_status) is 'Place of the value in its type, from 0.';
comment on function tenantry.rank_of(tenantry.ticket_priority) is 'Place of the value in its type, from 0.';
comment on function tenantry.rank_of(tenantry.ticket_category) is 'Place of the value in its type, from 0.';
comment on function tenantry.rank_of(tenantry.escalation_priority) is 'Place of the value in its type, from 0.';
comment on function tenantry.rank_of(tenantry.escalation_status) is 'Place of the value in its type, from 0.';
revoke execute on function tenantry.rank_of(tenantry.account_tier), tenantry.rank_of(tenantry.ticket_status), tenantry.rank_of(tenantry.ticket_priority), tenantry.rank_of(tenantry.ticket_category), tenantry.rank_of(tenantry.escalation_priority), tenantry.rank_of(tenantry.escalation_status) from public;
grant execute on function tenantry.rank_of(tenantry.account_tier), tenantry.rank_of(tenantry.ticket_status), tenantry.rank_of(tenantry.ticket_priority), tenantry.rank_of(tenantry.ticket_category), tenantry.rank_of(tenantry.escalation_priority), tenantry.rank_of(tenantry.escalation_status) to tenantry_app, tenantry_superadmin;

create table tenantry.customer_profiles (
    id              uuid not null,
    organization_id uuid not null references tenantry.organizations (id),
    user_id         uuid references tenantry.users (id),
    email           text not null check (char_length(email) between 3 and 320),
    name            text not null check (char_length(name) between 1 and 200),
    phone           text check (char_length(phone) <= 50),
    company         text check (char_length(company) <= 200),
    tier            tenantry.account_tier not null default 'STANDARD',
    standing        tenantry.account_standing not null default 'GOOD',
    lifetime_value_minor bigint not null default 0,
    currency        text not null default 'USD' check (currency ~ '^[A-Z]{3}$'),
    preferences     jsonb not null default '{}' check (jsonb_typeof(preferences) = 'object'),
    context         jsonb not null default '{}' check (jsonb_typeof(context) = 'object'),
    tier_rank smallint generated always as (tenantry.rank_of(tier)) stored,
    version         integer not null default 1 check (version > 0),
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    deleted_at      timestamptz,
    primary key (organization_id, id),
    unique (organization_id, user_id)
);

alter table tenantry.customer_profiles enable row level security;
alter table tenantry.customer_profiles force row level security;
create policy tenant on tenantry.customer_profiles for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.customer_profiles for all to tenantry_superadmin using (true) with check (true);
-- Everything but user_id, which makes a user row visible and is therefore set outside the tenant.
grant select,
      insert (id, organization_id, email, name, phone, company, tier, standing, lifetime_value_minor, currency,
              preferences, context, version, created_at, updated_at, deleted_at),
      update (email, name, phone, company, tier, standing, lifetime_value_minor, currency,
              preferences, context, version, updated_at, deleted_at)
    on tenantry.customer_profiles to tenantry_app;
grant all on tenantry.customer_profiles to tenantry_superadmin;

create unique index customer_profiles_lower_email_key on tenantry.customer_profiles (organization_id, lower(email)) where deleted_at is null;
create index customer_profiles_created_at_idx on tenantry.customer_profiles (organization_id, created_at, id);
create index customer_profiles_name_idx on tenantry.customer_profiles (organization_id, name, id);
create index customer_profiles_email_idx on tenantry.customer_profiles (organization_id, email, id);
create index customer_profiles_tier_rank_idx on tenantry.customer_profiles (organization_id, tier_rank, created_at, id);
create trigger touch_updated_at before update on tenantry.customer_profiles for each row execute function tenantry.touch_updated_at();

comment on table tenantry.customer_profiles is 'Customers of a tenant, with or without an account of their own.';
comment on column tenantry.customer_profiles.tier_rank is 'Place of tier in its type: what lists filter and order by, because comparisons of enums are not leakproof and no index condition under row-level security.';
comment on column tenantry.customer_profiles.user_id is 'The account of the customer; null: known by email only.';
comment on column tenantry.customer_profiles.email is 'Unique per organization among the living, without regard to case.';
comment on column tenantry.customer_profiles.lifetime_value_minor is 'Money in minor units of currency (cents).';
comment on column tenantry.customer_profiles.currency is 'ISO 4217 code of lifetime_value_minor.';
comment on column tenantry.customer_profiles.preferences is 'JSON object: what the customer chose (language, channel).';
comment on column tenantry.customer_profiles.context is 'JSON object: what the tenant knows (orders, devices), for agents and rules.';
comment on column tenantry.customer_profiles.version is 'Optimistic lock: every update by a user adds one; a writer that brings an older number is refused.';

-- A tenant sees its members and customers, former ones too: they are authors of what they left behind.
-- `offset 0` keeps the planner from hashing all members and customers of a big tenant to look up fifty users.
create policy tenant on tenantry.users for select to tenantry_app
    using (
        id = tenantry.current_user_id()
        or exists (select from tenantry.organization_members m where m.organization_id = tenantry.current_org() and m.user_id = users.id offset 0)
        or exists (select from tenantry.customer_profiles c where c.organization_id = tenantry.current_org() and c.user_id = users.id offset 0)
        -- Whoever asked to join, unless that was declined.
        or exists (select from tenantry.membership_requests r where r.organization_id = tenantry.current_org() and r.user_id = users.id
                      and r.is_accepted is distinct from false offset 0)
        -- Operators who looked into the organization.
        or is_superadmin and exists (select from tenantry.support_accesses a where a.organization_id = tenantry.current_org() and a.user_id = users.id offset 0)
    );

create table tenantry.representatives (
    id              uuid not null,
    organization_id uuid not null references tenantry.organizations (id),
    user_id         uuid not null references tenantry.users (id),
    role            tenantry.representative_role not null default 'AGENT',
    status          tenantry.representative_status not null default 'OFFLINE',
    skills          text[] not null default '{}' check (cardinality(skills) <= 50),
    capacity        integer not null default 10 check (capacity between 0 and 1000),
    version         integer not null default 1 check (version > 0),
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    deleted_at      timestamptz,
    primary key (organization_id, id),
    unique (organization_id, user_id)
);

alter table tenantry.representatives enable row level security;
alter table tenantry.representatives force row level security;
create policy tenant on tenantry.representatives for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.representatives for all to tenantry_superadmin using (true) with check (true);
grant select, insert, update on tenantry.representatives to tenantry_app;
grant all on tenantry.representatives to tenantry_superadmin;

create index representatives_created_at_idx on tenantry.representatives (organization_id, created_at, id);
create trigger touch_updated_at before update on tenantry.representatives for each row execute function tenantry.touch_updated_at();

comment on table tenantry.representatives is 'Members who work on tickets.';
comment on column tenantry.representatives.skills is 'Free labels that routing matches against the tags and category of tickets.';
comment on column tenantry.representatives.capacity is 'Number of open tickets this person takes at once.';
comment on column tenantry.representatives.version is 'Optimistic lock: every update by a user adds one; a writer that brings an older number is refused.';

create table tenantry.tickets (
    id              uuid not null,
    organization_id uuid not null references tenantry.organizations (id),
    number          bigint not null check (number > 0),
    customer_id     uuid,
    assignee_id     uuid,
    subject         text not null check (char_length(subject) between 1 and 300),
    description     text not null default '' check (char_length(description) <= 50000),
    status          tenantry.ticket_status not null default 'NEW',
    priority        tenantry.ticket_priority not null default 'NORMAL',
    category        tenantry.ticket_category not null default 'OTHER',
    tags            text[] not null default '{}' check (cardinality(tags) <= 50),
    first_response_due_at timestamptz,
    resolution_due_at     timestamptz,
    first_responded_at    timestamptz,
    resolved_at           timestamptz,
    closed_at             timestamptz,
    sla_paused_at         timestamptz,
    sla_paused_seconds    integer not null default 0 check (sla_paused_seconds >= 0),
    merged_into_id  uuid check (merged_into_id <> id),
    status_rank smallint generated always as (tenantry.rank_of(status)) stored,
    priority_rank smallint generated always as (tenantry.rank_of(priority)) stored,
    category_rank smallint generated always as (tenantry.rank_of(category)) stored,
    version         integer not null default 1 check (version > 0),
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, number),
    foreign key (organization_id, customer_id) references tenantry.customer_profiles (organization_id, id),
    foreign key (organization_id, assignee_id) references tenantry.representatives (organization_id, id),
    foreign key (organization_id, merged_into_id) references tenantry.tickets (organization_id, id)
);

alter table tenantry.tickets enable row level security;
alter table tenantry.tickets force row level security;
create policy tenant on tenantry.tickets for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.tickets for all to tenantry_superadmin using (true) with check (true);
grant select, insert, update on tenantry.tickets to tenantry_app;
grant all on tenantry.tickets to tenantry_superadmin;

create index tickets_created_at_idx on tenantry.tickets (organization_id, created_at, id);
create index tickets_updated_at_idx on tenantry.tickets (organization_id, updated_at, id);
create index tickets_status_rank_idx on tenantry.tickets (organization_id, status_rank, created_at, id);
create index tickets_priority_rank_idx on tenantry.tickets (organization_id, priority_rank, created_at, id);
create index tickets_category_rank_idx on tenantry.tickets (organization_id, category_rank, created_at, id);
create index tickets_assignee_id_idx on tenantry.tickets (organization_id, assignee_id, created_at, id);
create index tickets_customer_id_idx on tenantry.tickets (organization_id, customer_id, created_at, id);
create index tickets_resolution_due_at_idx on tenantry.tickets
    (organization_id, (resolution_due_at is null),
     (case when resolution_due_at is null then '-infinity'::timestamptz else resolution_due_at end), id);
create index tickets_merged_into_id_idx on tenantry.tickets (organization_id, merged_into_id, created_at, id) where merged_into_id is not null;
create trigger touch_updated_at before update on tenantry.tickets for each row execute function tenantry.touch_updated_at();

comment on table tenantry.tickets is 'Requests of customers.';
comment on column tenantry.tickets.category_rank is 'Place of category in its type: what lists filter and order by, because comparisons of enums are not leakproof and no index condition under row-level security.';
comment on column tenantry.tickets.priority_rank is 'Place of priority in its type: what lists filter and order by, because comparisons of enums are not leakproof and no index condition under row-level security.';
comment on column tenantry.tickets.status_rank is 'Place of status in its type: what lists filter and order by, because comparisons of enums are not leakproof and no index condition under row-level security.';
comment on column tenantry.tickets.number is 'Counts from 1 within the organization, without gaps: from ticket_counters, in the transaction of the insert.';
comment on column tenantry.tickets.customer_id is 'Customer profile; null: an internal ticket.';
comment on column tenantry.tickets.assignee_id is 'Representative; null: nobody yet.';
comment on column tenantry.tickets.description is 'Plain text, at most 50,000 characters.';
comment on column tenantry.tickets.first_response_due_at is 'SLA: moved by the pauses.';
comment on column tenantry.tickets.resolution_due_at is 'SLA: moved by the pauses.';
comment on column tenantry.tickets.first_responded_at is 'First public message of a representative.';
comment on column tenantry.tickets.sla_paused_at is 'Since when the clocks stand (PENDING_CUSTOMER, ON_HOLD); null: they run.';
comment on column tenantry.tickets.sla_paused_seconds is 'Seconds of all pauses that have ended.';
comment on column tenantry.tickets.merged_into_id is 'The ticket this one went into; its own history stays here.';
comment on column tenantry.tickets.version is 'Optimistic lock: every update by a user adds one; a writer that brings an older number is refused.';

create table tenantry.ticket_counters (
    organization_id uuid primary key references tenantry.organizations (id),
    last_number     bigint not null default 0 check (last_number >= 0)
);

alter table tenantry.ticket_counters enable row level security;
alter table tenantry.ticket_counters force row level security;
create policy tenant on tenantry.ticket_counters for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.ticket_counters for all to tenantry_superadmin using (true) with check (true);
grant select, insert, update on tenantry.ticket_counters to tenantry_app;
grant all on tenantry.ticket_counters to tenantry_superadmin;

comment on table tenantry.ticket_counters is 'Last ticket number given out per organization. Counted up in the transaction that inserts the ticket: a rollback leaves no gap, the row lock no duplicate.';

create table tenantry.ticket_messages (
    id              uuid not null,
    organization_id uuid not null references tenantry.organizations (id),
    ticket_id          uuid not null,
    author_user_id     uuid references tenantry.users (id),
    author_customer_id uuid,
    is_internal        boolean not null default false,
    body               text not null check (char_length(body) between 1 and 50000),
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    primary key (organization_id, id),
    foreign key (organization_id, ticket_id) references tenantry.tickets (organization_id, id) on delete cascade,
    foreign key (organization_id, author_customer_id) references tenantry.customer_profiles (organization_id, id),
    check (num_nonnulls(author_user_id, author_customer_id) <= 1),
    check (author_customer_id is null or not is_internal)
);

alter table tenantry.ticket_messages enable row level security;
alter table tenantry.ticket_messages force row level security;
create policy tenant on tenantry.ticket_messages for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.ticket_messages for all to tenantry_superadmin using (true) with check (true);
grant select, insert, update on tenantry.ticket_messages to tenantry_app;
grant all on tenantry.ticket_messages to tenantry_superadmin;

create index ticket_messages_ticket_id_idx on tenantry.ticket_messages (organization_id, ticket_id, created_at, id);
create index ticket_messages_author_customer_id_idx on tenantry.ticket_messages (organization_id, author_customer_id, created_at, id);
create trigger touch_updated_at before update on tenantry.ticket_messages for each row execute function tenantry.touch_updated_at();

comment on table tenantry.ticket_messages is 'What was said on a ticket. The author is a user, a customer, or neither: the system.';
comment on column tenantry.ticket_messages.author_user_id is 'Set: written by someone of the organization.';
comment on column tenantry.ticket_messages.author_customer_id is 'Set: written by the customer; never internal.';
comment on column tenantry.ticket_messages.is_internal is 'A note that the customer must not see.';
comment on column tenantry.ticket_messages.body is 'Plain text, 1 to 50,000 characters.';

create table tenantry.escalations (
    id              uuid not null,
    organization_id uuid not null references tenantry.organizations (id),
    ticket_id       uuid not null,
    reason          tenantry.escalation_reason not null,
    note            text check (char_length(note) <= 5000),
    priority        tenantry.escalation_priority not null default 'NORMAL',
    status          tenantry.escalation_status not null default 'OPEN',
    escalated_by    uuid references tenantry.users (id),
    assigned_to     uuid,
    resolution      text check (char_length(resolution) <= 5000),
    resolved_at     timestamptz,
    priority_rank smallint generated always as (tenantry.rank_of(priority)) stored,
    status_rank smallint generated always as (tenantry.rank_of(status)) stored,
    version         integer not null default 1 check (version > 0),
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    primary key (organization_id, id),
    foreign key (organization_id, ticket_id) references tenantry.tickets (organization_id, id) on delete cascade,
    foreign key (organization_id, assigned_to) references tenantry.representatives (organization_id, id)
);

alter table tenantry.escalations enable row level security;
alter table tenantry.escalations force row level security;
create policy tenant on tenantry.escalations for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.escalations for all to tenantry_superadmin using (true) with check (true);
grant select, insert, update on tenantry.escalations to tenantry_app;
grant all on tenantry.escalations to tenantry_superadmin;

create index escalations_created_at_idx on tenantry.escalations (organization_id, created_at, id);
create index escalations_status_rank_idx on tenantry.escalations (organization_id, status_rank, created_at, id);
create index escalations_priority_rank_idx on tenantry.escalations (organization_id, priority_rank, created_at, id);
create index escalations_ticket_id_idx on tenantry.escalations (organization_id, ticket_id, created_at, id);
create index escalations_assigned_to_idx on tenantry.escalations (organization_id, assigned_to, created_at, id);
create index escalations_escalated_by_idx on tenantry.escalations (organization_id, escalated_by, created_at, id);
create trigger touch_updated_at before update on tenantry.escalations for each row execute function tenantry.touch_updated_at();

comment on table tenantry.escalations is 'Tickets handed to someone with more say.';
comment on column tenantry.escalations.priority_rank is 'Place of priority in its type: what lists filter and order by, because comparisons of enums are not leakproof and no index condition under row-level security.';
comment on column tenantry.escalations.status_rank is 'Place of status in its type: what lists filter and order by, because comparisons of enums are not leakproof and no index condition under row-level security.';
comment on column tenantry.escalations.note is 'The reason in words.';
comment on column tenantry.escalations.escalated_by is 'User; null: the system or an agent.';
comment on column tenantry.escalations.assigned_to is 'Representative; null: nobody yet.';
comment on column tenantry.escalations.resolution is 'How it ended, in words.';
comment on column tenantry.escalations.version is 'Optimistic lock: every update by a user adds one; a writer that brings an older number is refused.';

create table tenantry.performance_metrics (
    id              uuid not null,
    organization_id uuid not null references tenantry.organizations (id),
    period          tenantry.metric_period not null,
    period_start    timestamptz not null,
    tickets_opened  integer not null default 0 check (tickets_opened >= 0),
    tickets_resolved integer not null default 0 check (tickets_resolved >= 0),
    tickets_escalated integer not null default 0 check (tickets_escalated >= 0),
    refunds_requested integer not null default 0 check (refunds_requested >= 0),
    refunds_settled integer not null default 0 check (refunds_settled >= 0),
    refund_total_minor bigint not null default 0 check (refund_total_minor >= 0),
    currency        text not null default 'USD' check (currency ~ '^[A-Z]{3}$'),
    messages_sent   integer not null default 0 check (messages_sent >= 0),
    first_response_seconds_avg double precision check (first_response_seconds_avg >= 0),
    resolution_seconds_avg double precision check (resolution_seconds_avg >= 0),
    by_category     jsonb not null default '{}' check (jsonb_typeof(by_category) = 'object'),
    trend           tenantry.performance_trend not null default 'FLAT',
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, period, period_start)
);

alter table tenantry.performance_metrics enable row level security;
alter table tenantry.performance_metrics force row level security;
create policy tenant on tenantry.performance_metrics for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.performance_metrics for all to tenantry_superadmin using (true) with check (true);
grant select on tenantry.performance_metrics to tenantry_app;
grant all on tenantry.performance_metrics to tenantry_superadmin;

create index performance_metrics_period_start_idx on tenantry.performance_metrics (organization_id, period_start, id);
create trigger touch_updated_at before update on tenantry.performance_metrics for each row execute function tenantry.touch_updated_at();

comment on table tenantry.performance_metrics is 'Figures of an organization per period, computed by a job. Read only for the tenant.';
comment on column tenantry.performance_metrics.period_start is 'First instant of the period, UTC.';
comment on column tenantry.performance_metrics.refund_total_minor is 'Settled refunds in minor units of currency (cents).';
comment on column tenantry.performance_metrics.messages_sent is 'Public messages of representatives and agents.';
comment on column tenantry.performance_metrics.first_response_seconds_avg is 'Seconds, pauses not counted; null: none in this period.';
comment on column tenantry.performance_metrics.resolution_seconds_avg is 'Seconds, pauses not counted; null: none in this period.';
comment on column tenantry.performance_metrics.by_category is 'JSON object: ticket category to its counts and times.';
comment on column tenantry.performance_metrics.trend is 'Of the resolution time against the period before; UP is better.';

create table tenantry.team_performance (
    id              uuid not null,
    organization_id uuid not null references tenantry.organizations (id),
    representative_id uuid not null,
    period          tenantry.metric_period not null,
    period_start    timestamptz not null,
    tickets_handled integer not null default 0 check (tickets_handled >= 0),
    resolution_seconds_avg double precision check (resolution_seconds_avg >= 0),
    satisfaction_score double precision check (satisfaction_score between 0 and 5),
    trend           tenantry.performance_trend not null default 'FLAT',
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, representative_id, period, period_start),
    foreign key (organization_id, representative_id) references tenantry.representatives (organization_id, id) on delete cascade
);

alter table tenantry.team_performance enable row level security;
alter table tenantry.team_performance force row level security;
create policy tenant on tenantry.team_performance for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.team_performance for all to tenantry_superadmin using (true) with check (true);
grant select on tenantry.team_performance to tenantry_app;
grant all on tenantry.team_performance to tenantry_superadmin;

create index team_performance_period_start_idx on tenantry.team_performance (organization_id, period_start, id);
create index team_performance_representative_id_idx on tenantry.team_performance (organization_id, representative_id, period_start, id);
create trigger touch_updated_at before update on tenantry.team_performance for each row execute function tenantry.touch_updated_at();

comment on table tenantry.team_performance is 'Figures of a representative per period, computed by a job. Read only for the tenant.';
comment on column tenantry.team_performance.period_start is 'First instant of the period, UTC.';
comment on column tenantry.team_performance.resolution_seconds_avg is 'Seconds, pauses not counted; null: none in this period.';
comment on column tenantry.team_performance.satisfaction_score is 'Mean rating, 0 to 5; null: nobody rated.';
comment on column tenantry.team_performance.trend is 'Against the period before; UP is better.';
