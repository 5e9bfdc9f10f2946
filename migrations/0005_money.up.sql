-- What is paid: the subscription; agents and the rules by which they decide; budgets and refunds.

create type tenantry.subscription_status as enum ('INCOMPLETE', 'INCOMPLETE_EXPIRED', 'TRIALING', 'ACTIVE', 'PAST_DUE', 'CANCELED', 'UNPAID', 'PAUSED');
comment on type tenantry.subscription_status is 'The eight of Stripe, in its spelling.';
create type tenantry.agent_type as enum ('TRIAGE', 'SUPPORT', 'REFUND', 'QUALITY');
comment on type tenantry.agent_type is 'What an agent does.';
create type tenantry.agent_status as enum ('DRAFT', 'ACTIVE', 'PAUSED', 'RETIRED');
comment on type tenantry.agent_status is 'Life cycle of an agent configuration.';
create type tenantry.decision_action as enum ('AUTO_APPROVE', 'REQUIRE_APPROVAL', 'ESCALATE', 'DENY');
comment on type tenantry.decision_action is 'What a decision rule orders.';
create type tenantry.budget_type as enum ('REFUND', 'AI_USAGE', 'CREDIT', 'OPERATIONS');
comment on type tenantry.budget_type is 'What a budget pays for.';
create type tenantry.budget_period as enum ('DAY', 'WEEK', 'MONTH', 'QUARTER', 'YEAR');
comment on type tenantry.budget_period is 'Length of a budget period.';
create type tenantry.budget_usage_kind as enum ('SPEND', 'RESERVE', 'SETTLE', 'RELEASE', 'RETURN');
comment on type tenantry.budget_usage_kind is 'SPEND takes at once; RESERVE sets aside, which SETTLE turns into spending and RELEASE gives back; RETURN takes back what was settled.';
create type tenantry.budget_reservation_status as enum ('OPEN', 'SETTLED', 'RELEASED', 'EXPIRED', 'RETURNED');
comment on type tenantry.budget_reservation_status is 'Life cycle of a reservation.';
create type tenantry.refund_reason as enum ('DEFECTIVE_PRODUCT', 'NOT_AS_DESCRIBED', 'LATE_DELIVERY', 'DUPLICATE_CHARGE', 'SERVICE_ISSUE', 'GOODWILL', 'OTHER');
comment on type tenantry.refund_reason is 'Why money goes back.';
create type tenantry.refund_status as enum ('REQUESTED', 'PENDING_APPROVAL', 'APPROVED', 'DENIED', 'PROCESSING', 'SETTLED', 'FAILED', 'CANCELLED');
comment on type tenantry.refund_status is 'Life cycle of a refund.';

create function tenantry.rank_of(value tenantry.refund_status) returns smallint language plpgsql immutable strict parallel safe as $$
begin
    return case value when 'REQUESTED' then 0 when 'PENDING_APPROVAL' then 1 when 'APPROVED' then 2 when 'DENIED' then 3 when 'PROCESSING' then 4 when 'SETTLED' then 5 when 'FAILED' then 6 when 'CANCELLED' then 7 end;
end $$;
comment on function tenantry.rank_of(tenantry.refund_status) is 'Place of the value in its type, from 0.';
revoke execute on function tenantry.rank_of(tenantry.refund_status) from public;
grant execute on function tenantry.rank_of(tenantry.refund_status) to tenantry_app, tenantry_superadmin;

create function tenantry.rank_of(value tenantry.budget_reservation_status) returns smallint language plpgsql immutable strict parallel safe as $$
begin
    return case value when 'OPEN' then 0 when 'SETTLED' then 1 when 'RELEASED' then 2 when 'EXPIRED' then 3 when 'RETURNED' then 4 end;
end $$;
comment on function tenantry.rank_of(tenantry.budget_reservation_status) is 'Place of the value in its type, from 0.';
revoke execute on function tenantry.rank_of(tenantry.budget_reservation_status) from public;
grant execute on function tenantry.rank_of(tenantry.budget_reservation_status) to tenantry_app, tenantry_superadmin;

create table tenantry.subscriptions (
    id              uuid not null,
    organization_id uuid not null references tenantry.organizations (id),
    stripe_customer_id     text check (char_length(stripe_customer_id) between 1 and 255),
    stripe_subscription_id text check (char_length(stripe_subscription_id) between 1 and 255),
    status                 tenantry.subscription_status not null default 'ACTIVE',
    plan                   tenantry.organization_plan not null default 'FREE',
    seat_count             integer not null default 1 check (seat_count >= 0),
    sells_seats            boolean not null default false,
    current_period_start   timestamptz,
    current_period_end     timestamptz,
    cancel_at_period_end   boolean not null default false,
    cancel_at              timestamptz,
    trial_end              timestamptz,
    collection_paused      boolean not null default false,
    source_version         bigint not null default 0,
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id),
    check (current_period_end >= current_period_start)
);

alter table tenantry.subscriptions enable row level security;
alter table tenantry.subscriptions force row level security;
create policy tenant on tenantry.subscriptions for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.subscriptions for all to tenantry_superadmin using (true) with check (true);
grant select on tenantry.subscriptions to tenantry_app;
grant all on tenantry.subscriptions to tenantry_superadmin;

create index subscriptions_created_at_idx on tenantry.subscriptions (organization_id, created_at, id);
create index subscriptions_stripe_customer_id_idx on tenantry.subscriptions (stripe_customer_id);
create index subscriptions_stripe_subscription_id_idx on tenantry.subscriptions (stripe_subscription_id);
create trigger touch_updated_at before update on tenantry.subscriptions for each row execute function tenantry.touch_updated_at();

comment on table tenantry.subscriptions is 'The one subscription of an organization, as Stripe tells it. Read only for the tenant.';
comment on column tenantry.subscriptions.plan is 'From the price map, lookup_key or product metadata.';
comment on column tenantry.subscriptions.seat_count is 'Sum of the quantities of the seat prices.';
comment on column tenantry.subscriptions.sells_seats is 'Whether a price says that its quantity is of seats. Without one, a count of 1 is that of a flat price and says nothing of seats.';
comment on column tenantry.subscriptions.current_period_start is 'Of the item that buys the plan, at Stripe since 2025-03-31; before of the subscription.';
comment on column tenantry.subscriptions.cancel_at is 'When it ends, if that was decided: with the period or at another time.';
comment on column tenantry.subscriptions.collection_paused is 'Stripe pause_collection: the subscription runs, invoices are not collected.';
comment on column tenantry.subscriptions.source_version is 'Stripe `created` (seconds) and terminal rank of the last event applied; older events are skipped.';

create table tenantry.agent_configurations (
    id              uuid not null,
    organization_id uuid not null references tenantry.organizations (id),
    name            text not null check (char_length(name) between 1 and 200),
    description     text check (char_length(description) <= 5000),
    type            tenantry.agent_type not null,
    status          tenantry.agent_status not null default 'DRAFT',
    model_settings  jsonb not null default '{}' check (jsonb_typeof(model_settings) = 'object'),
    thresholds      jsonb not null default '{}' check (jsonb_typeof(thresholds) = 'object'),
    data_sources    jsonb not null default '[]' check (jsonb_typeof(data_sources) = 'array'),
    version         integer not null default 1 check (version > 0),
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    primary key (organization_id, id)
);

alter table tenantry.agent_configurations enable row level security;
alter table tenantry.agent_configurations force row level security;
create policy tenant on tenantry.agent_configurations for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.agent_configurations for all to tenantry_superadmin using (true) with check (true);
grant select, insert, update on tenantry.agent_configurations to tenantry_app;
grant all on tenantry.agent_configurations to tenantry_superadmin;

create index agent_configurations_created_at_idx on tenantry.agent_configurations (organization_id, created_at, id);
create trigger touch_updated_at before update on tenantry.agent_configurations for each row execute function tenantry.touch_updated_at();

comment on table tenantry.agent_configurations is 'How the AI agents of a tenant are set up.';
comment on column tenantry.agent_configurations.model_settings is 'JSON object: model, temperature, token limit; handed to the agent as it is.';
comment on column tenantry.agent_configurations.thresholds is 'JSON object: name of a threshold to its value, e.g. confidence 0 to 1.';
comment on column tenantry.agent_configurations.data_sources is 'JSON array: what the agent may read.';
comment on column tenantry.agent_configurations.version is 'Optimistic lock: every update by a user adds one; a writer that brings an older number is refused.';

create table tenantry.decision_rules (
    id              uuid not null,
    organization_id uuid not null references tenantry.organizations (id),
    agent_id        uuid not null,
    name            text not null check (char_length(name) between 1 and 200),
    rank            integer not null check (rank >= 0),
    conditions      jsonb not null,
    action          tenantry.decision_action not null,
    enabled         boolean not null default true,
    version         integer not null default 1 check (version > 0),
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    primary key (organization_id, id),
    foreign key (organization_id, agent_id) references tenantry.agent_configurations (organization_id, id) on delete cascade,
    -- Deferrable: several rules trade places in one statement or transaction.
    unique (organization_id, agent_id, rank) deferrable initially immediate
);

alter table tenantry.decision_rules enable row level security;
alter table tenantry.decision_rules force row level security;
create policy tenant on tenantry.decision_rules for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.decision_rules for all to tenantry_superadmin using (true) with check (true);
grant select, insert, update, delete on tenantry.decision_rules to tenantry_app;
grant all on tenantry.decision_rules to tenantry_superadmin;

create index decision_rules_agent_id_idx on tenantry.decision_rules (organization_id, agent_id, created_at, id);
create trigger touch_updated_at before update on tenantry.decision_rules for each row execute function tenantry.touch_updated_at();

comment on table tenantry.decision_rules is 'Rules an agent decides by: the first enabled one whose conditions hold, in the order of rank.';
comment on column tenantry.decision_rules.rank is 'Lowest first; unique per agent.';
comment on column tenantry.decision_rules.conditions is 'JsonLogic expression over the request.';
comment on column tenantry.decision_rules.version is 'Optimistic lock: every update by a user adds one; a writer that brings an older number is refused.';

-- One reading of the calendar for the API, the job and whoever looks: PostgreSQL's own time zones.
create function tenantry.budget_period_at(period tenantry.budget_period, time_zone text, at timestamptz) returns table (starts_at timestamptz, ends_at timestamptz)
    language plpgsql stable rows 1 strict parallel safe set search_path = pg_catalog, pg_temp as $$
declare
    length constant interval := case period::text when 'DAY' then '1 day' when 'WEEK' then '7 days' when 'MONTH' then '1 month' when 'QUARTER' then '3 months' else '1 year' end::interval;
    local timestamp := date_trunc(lower(period::text), at at time zone time_zone);
begin
    -- Where midnight comes twice, the second one counts; until then the period before goes on.
    if local at time zone time_zone > at then
        local := local - length;
    end if;
    starts_at := local at time zone time_zone;
    ends_at := (local + length) at time zone time_zone;
    return next;
end $$;
comment on function tenantry.budget_period_at(tenantry.budget_period, text, timestamptz) is 'The calendar period of a time zone that holds an instant. Weeks begin on Monday.';
create function tenantry.next_budget_period(period tenantry.budget_period, time_zone text, after timestamptz, now timestamptz)
    returns table (starts_at timestamptz, ends_at timestamptz, skipped integer)
    language plpgsql stable rows 1 strict parallel safe set search_path = pg_catalog, pg_temp as $$
begin
    starts_at := after;
    skipped := 0;
    loop
        select p.ends_at into ends_at from tenantry.budget_period_at(period, time_zone, starts_at) p;
        exit when ends_at > now;
        starts_at := ends_at;
        skipped := skipped + 1;
    end loop;
    return next;
end $$;
comment on function tenantry.next_budget_period(tenantry.budget_period, text, timestamptz, timestamptz) is 'The period that holds now, of those that follow one that ended; how many between them nobody opened.';
revoke execute on function tenantry.budget_period_at(tenantry.budget_period, text, timestamptz), tenantry.next_budget_period(tenantry.budget_period, text, timestamptz, timestamptz) from public;
grant execute on function tenantry.budget_period_at(tenantry.budget_period, text, timestamptz), tenantry.next_budget_period(tenantry.budget_period, text, timestamptz, timestamptz) to tenantry_app, tenantry_superadmin;

create table tenantry.budgets (
    id              uuid not null,
    organization_id uuid not null references tenantry.organizations (id),
    series_id       uuid not null,
    type            tenantry.budget_type not null,
    name            text not null check (char_length(name) between 1 and 200),
    period          tenantry.budget_period not null,
    time_zone       text not null default 'UTC' check (char_length(time_zone) between 1 and 64),
    starts_at       timestamptz not null,
    ends_at         timestamptz not null,
    limit_minor     bigint not null check (limit_minor between 0 and 1000000000000000),
    rolled_over_minor bigint not null default 0 check (rolled_over_minor between 0 and 100000000000000000),
    spent_minor     bigint not null default 0 check (spent_minor >= 0),
    reserved_minor  bigint not null default 0 check (reserved_minor >= 0),
    overrun_minor   bigint not null default 0 check (overrun_minor >= 0),
    changes         bigint not null default 0 check (changes >= 0),
    currency        text not null check (currency ~ '^[A-Z]{3}$'),
    is_hard_limit   boolean not null default true,
    alert_thresholds integer[] not null default '{50,80,100}' check (cardinality(alert_thresholds) <= 20 and 1 <= all (alert_thresholds) and 1000 >= all (alert_thresholds)),
    rollover        boolean not null default false,
    version         integer not null default 1 check (version > 0),
    closed_at       timestamptz,
    archived_at     timestamptz,
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    primary key (organization_id, id),
    foreign key (organization_id, series_id) references tenantry.budgets (organization_id, id) on delete cascade,
    constraint budgets_period_check check (ends_at > starts_at),
    constraint budgets_hard_limit_check check (not is_hard_limit or spent_minor + reserved_minor <= limit_minor + rolled_over_minor + overrun_minor)
    -- A budget that many spend from is written again and again: its new version finds room beside the old one.
) with (fillfactor = 50);

alter table tenantry.budgets enable row level security;
alter table tenantry.budgets force row level security;
create policy tenant on tenantry.budgets for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.budgets for all to tenantry_superadmin using (true) with check (true);
grant select, insert, update on tenantry.budgets to tenantry_app;
grant all on tenantry.budgets to tenantry_superadmin;

create unique index budgets_open_idx on tenantry.budgets (organization_id, series_id) where closed_at is null;
create index budgets_series_id_idx on tenantry.budgets (organization_id, series_id, created_at, id);
create index budgets_due_idx on tenantry.budgets (ends_at) where closed_at is null and archived_at is null;
create index budgets_created_at_idx on tenantry.budgets (organization_id, created_at, id);
create index budgets_starts_at_idx on tenantry.budgets (organization_id, starts_at, id);
create trigger touch_updated_at before update on tenantry.budgets for each row execute function tenantry.touch_updated_at();

comment on table tenantry.budgets is 'Money a tenant allows for a purpose and a period. A row is one period; the periods of a budget share series_id.';
comment on column tenantry.budgets.series_id is 'The first period of the budget.';
comment on column tenantry.budgets.time_zone is 'IANA name; the days on which periods begin are those of this zone.';
comment on column tenantry.budgets.starts_at is 'First instant of the period.';
comment on column tenantry.budgets.ends_at is 'First instant after the period.';
comment on column tenantry.budgets.limit_minor is 'Money in minor units of currency (cents).';
comment on column tenantry.budgets.rolled_over_minor is 'Money in minor units: left of the periods before, on top of the limit.';
comment on column tenantry.budgets.spent_minor is 'Money in minor units: sum of SPEND and SETTLE, less RETURN.';
comment on column tenantry.budgets.reserved_minor is 'Money in minor units: the reservations that are open.';
comment on column tenantry.budgets.overrun_minor is 'Money in minor units: how far payments that were made already went above a hard limit. It allows nothing to anybody else.';
comment on column tenantry.budgets.changes is 'Counts every change of the amounts or the limit; names the crossing that an alert is of.';
comment on column tenantry.budgets.currency is 'ISO 4217 code of the amounts of this budget and of its records.';
comment on column tenantry.budgets.is_hard_limit is 'The database itself refuses spent + reserved above the limit; soft: only alerts.';
comment on column tenantry.budgets.alert_thresholds is 'Percentages of limit and rollover at which an alert is due, in ascending order.';
comment on column tenantry.budgets.rollover is 'What is left goes into the next period.';
comment on column tenantry.budgets.version is 'Optimistic lock of the settings: every update by a user and every new period adds one, spending does not.';
comment on column tenantry.budgets.closed_at is 'When the next period was opened; null: the current period.';
comment on column tenantry.budgets.archived_at is 'No spending and no further periods from here on.';

create table tenantry.budget_reservations (
    id              uuid not null,
    organization_id uuid not null references tenantry.organizations (id),
    amount_minor    bigint not null check (amount_minor > 0),
    settled_minor   bigint check (settled_minor > 0),
    currency        text not null check (currency ~ '^[A-Z]{3}$'),
    status          tenantry.budget_reservation_status not null default 'OPEN',
    source          text not null check (char_length(source) between 1 and 200),
    expires_at      timestamptz not null,
    in_flight_at    timestamptz,
    ended_at        timestamptz,
    status_rank smallint generated always as (tenantry.rank_of(status)) stored,
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    primary key (organization_id, id),
    constraint budget_reservations_expiry_check check (expires_at > created_at and expires_at <= created_at + interval '24 hours'),
    constraint budget_reservations_ended_check check ((status = 'OPEN') = (ended_at is null)),
    constraint budget_reservations_settled_check check ((status in ('SETTLED', 'RETURNED')) = (settled_minor is not null))
);

alter table tenantry.budget_reservations enable row level security;
alter table tenantry.budget_reservations force row level security;
create policy tenant on tenantry.budget_reservations for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.budget_reservations for all to tenantry_superadmin using (true) with check (true);
grant select, insert, update on tenantry.budget_reservations to tenantry_app;
grant all on tenantry.budget_reservations to tenantry_superadmin;

create index budget_reservations_created_at_idx on tenantry.budget_reservations (organization_id, created_at, id);
create index budget_reservations_status_rank_idx on tenantry.budget_reservations (organization_id, status_rank, created_at, id);
create index budget_reservations_due_idx on tenantry.budget_reservations (organization_id, expires_at, id) where status = 'OPEN';
create trigger touch_updated_at before update on tenantry.budget_reservations for each row execute function tenantry.touch_updated_at();

comment on table tenantry.budget_reservations is 'Money set aside from one or more budgets (its RESERVE records) until it is settled, released or expired.';
comment on column tenantry.budget_reservations.amount_minor is 'Money in minor units of currency, from each of its budgets.';
comment on column tenantry.budget_reservations.settled_minor is 'What was spent in the end: less, the same or more.';
comment on column tenantry.budget_reservations.source is 'What caused it, e.g. refund or agent:support.';
comment on column tenantry.budget_reservations.expires_at is 'From then on the money is free again; at most 24 hours after the creation.';
comment on column tenantry.budget_reservations.in_flight_at is 'When its payment was sent: its result counts in full whenever it comes.';
comment on column tenantry.budget_reservations.ended_at is 'When it was settled, released or found expired.';
comment on column tenantry.budget_reservations.status_rank is 'Place of status in its type: what lists filter and order by, because comparisons of enums are not leakproof and no index condition under row-level security.';

create table tenantry.budget_usage_records (
    id              uuid not null,
    organization_id uuid not null references tenantry.organizations (id),
    budget_id       uuid not null,
    reservation_id  uuid,
    amount_minor    bigint not null check (amount_minor > 0),
    currency        text not null check (currency ~ '^[A-Z]{3}$'),
    kind            tenantry.budget_usage_kind not null,
    source          text not null check (char_length(source) between 1 and 200),
    resource_id     uuid,
    created_at      timestamptz not null default now(),
    primary key (organization_id, id),
    foreign key (organization_id, budget_id) references tenantry.budgets (organization_id, id) on delete cascade,
    foreign key (organization_id, reservation_id) references tenantry.budget_reservations (organization_id, id) on delete cascade,
    check ((kind = 'SPEND') = (reservation_id is null))
);

alter table tenantry.budget_usage_records enable row level security;
alter table tenantry.budget_usage_records force row level security;
create policy tenant on tenantry.budget_usage_records for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.budget_usage_records for all to tenantry_superadmin using (true) with check (true);
grant select, insert on tenantry.budget_usage_records to tenantry_app;
grant all on tenantry.budget_usage_records to tenantry_superadmin;

create index budget_usage_records_budget_id_idx on tenantry.budget_usage_records (organization_id, budget_id, created_at, id);
create index budget_usage_records_reservation_id_idx on tenantry.budget_usage_records (organization_id, reservation_id, created_at, id) where reservation_id is not null;
create index budget_usage_records_resource_id_idx on tenantry.budget_usage_records (organization_id, resource_id) where resource_id is not null;

comment on table tenantry.budget_usage_records is 'Every movement of a budget; the sums on budgets follow from it, in the same transaction. One request is done once by its idempotency key (idempotency_keys).';
comment on column tenantry.budget_usage_records.reservation_id is 'The reservation that was made, settled or released; null for SPEND.';
comment on column tenantry.budget_usage_records.amount_minor is 'Money in minor units of currency, always positive; kind tells the direction.';
comment on column tenantry.budget_usage_records.source is 'What caused it, e.g. refund or agent:support.';
comment on column tenantry.budget_usage_records.resource_id is 'Row that caused it, e.g. the refund; not a foreign key, since source decides the table.';

create table tenantry.budget_alerts (
    id              uuid not null,
    organization_id uuid not null references tenantry.organizations (id),
    budget_id       uuid not null,
    series_id       uuid not null,
    percent         integer not null check (percent between 1 and 1000),
    change          bigint not null check (change > 0),
    taken_minor     bigint not null check (taken_minor > 0),
    limit_minor     bigint not null check (limit_minor >= 0),
    currency        text not null check (currency ~ '^[A-Z]{3}$'),
    created_at      timestamptz not null default now(),
    primary key (organization_id, id),
    foreign key (organization_id, budget_id) references tenantry.budgets (organization_id, id) on delete cascade,
    unique (organization_id, budget_id, percent, change)
);

alter table tenantry.budget_alerts enable row level security;
alter table tenantry.budget_alerts force row level security;
create policy tenant on tenantry.budget_alerts for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.budget_alerts for all to tenantry_superadmin using (true) with check (true);
grant select, insert on tenantry.budget_alerts to tenantry_app;
grant all on tenantry.budget_alerts to tenantry_superadmin;

create index budget_alerts_budget_id_idx on tenantry.budget_alerts (organization_id, budget_id, created_at, id);

comment on table tenantry.budget_alerts is 'Thresholds that were crossed upwards. One is armed again when spent + reserved falls below it.';
comment on column tenantry.budget_alerts.series_id is 'As in budgets: whoever follows a budget follows all its periods.';
comment on column tenantry.budget_alerts.percent is 'The threshold.';
comment on column tenantry.budget_alerts.change is 'budgets.changes of the crossing: a crossing fires once.';
comment on column tenantry.budget_alerts.taken_minor is 'Money in minor units: spent + reserved after the crossing.';
comment on column tenantry.budget_alerts.limit_minor is 'Money in minor units: limit and rollover, of which percent is a part.';

create table tenantry.refunds (
    id              uuid not null,
    organization_id uuid not null references tenantry.organizations (id),
    ticket_id       uuid,
    customer_id     uuid not null,
    amount_minor    bigint not null check (amount_minor > 0),
    currency        text not null check (currency ~ '^[A-Z]{3}$'),
    reason          tenantry.refund_reason not null,
    note            text check (char_length(note) <= 5000),
    status          tenantry.refund_status not null default 'REQUESTED',
    requested_by    uuid references tenantry.users (id),
    decision        tenantry.decision_action,
    decision_rule_id uuid,
    decided_by      uuid references tenantry.users (id),
    decision_explanation jsonb,
    decided_at      timestamptz,
    budget_id       uuid,
    stripe_payment_intent_id text check (char_length(stripe_payment_intent_id) between 1 and 255),
    stripe_refund_id text check (char_length(stripe_refund_id) between 1 and 255),
    failure_reason  text check (char_length(failure_reason) <= 2000),
    settled_at      timestamptz,
    status_rank smallint generated always as (tenantry.rank_of(status)) stored,
    version         integer not null default 1 check (version > 0),
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, stripe_refund_id),
    foreign key (organization_id, ticket_id) references tenantry.tickets (organization_id, id),
    foreign key (organization_id, customer_id) references tenantry.customer_profiles (organization_id, id),
    foreign key (organization_id, decision_rule_id) references tenantry.decision_rules (organization_id, id),
    foreign key (organization_id, budget_id) references tenantry.budgets (organization_id, id)
);

alter table tenantry.refunds enable row level security;
alter table tenantry.refunds force row level security;
create policy tenant on tenantry.refunds for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.refunds for all to tenantry_superadmin using (true) with check (true);
grant select, insert, update on tenantry.refunds to tenantry_app;
grant all on tenantry.refunds to tenantry_superadmin;

create index refunds_created_at_idx on tenantry.refunds (organization_id, created_at, id);
create index refunds_status_rank_idx on tenantry.refunds (organization_id, status_rank, created_at, id);
create index refunds_ticket_id_idx on tenantry.refunds (organization_id, ticket_id, created_at, id);
create index refunds_customer_id_idx on tenantry.refunds (organization_id, customer_id, created_at, id);
create index refunds_budget_id_idx on tenantry.refunds (organization_id, budget_id, created_at, id);
create index refunds_decision_rule_id_idx on tenantry.refunds (organization_id, decision_rule_id, created_at, id);
create index refunds_requested_by_idx on tenantry.refunds (organization_id, requested_by, created_at, id);
create index refunds_decided_by_idx on tenantry.refunds (organization_id, decided_by, created_at, id);
create trigger touch_updated_at before update on tenantry.refunds for each row execute function tenantry.touch_updated_at();

comment on table tenantry.refunds is 'Refunds from the request to the payment.';
comment on column tenantry.refunds.status_rank is 'Place of status in its type: what lists filter and order by, because comparisons of enums are not leakproof and no index condition under row-level security.';
comment on column tenantry.refunds.amount_minor is 'Money in minor units of currency (cents).';
comment on column tenantry.refunds.note is 'The reason in words.';
comment on column tenantry.refunds.requested_by is 'The user, or who made the key that asked; null: nobody here, as of a refund that was made in Stripe.';
comment on column tenantry.refunds.decision is 'What the rules ordered; null: not decided yet.';
comment on column tenantry.refunds.decision_rule_id is 'The rule that decided; null: none matched, or a person did. A rule that has decided is switched off, not deleted.';
comment on column tenantry.refunds.decided_by is 'The user who approved or denied after the rules had asked for one.';
comment on column tenantry.refunds.decision_explanation is 'JSON: the rules tried in rank order and what each said.';
comment on column tenantry.refunds.budget_id is 'First period of the budget the amount is reserved from; null: none.';
comment on column tenantry.refunds.stripe_payment_intent_id is 'The payment at Stripe that is given back.';
comment on column tenantry.refunds.failure_reason is 'Why the payment failed, or why the last try did that is made again.';
comment on column tenantry.refunds.version is 'Optimistic lock: every update by a user adds one; a writer that brings an older number is refused.';
