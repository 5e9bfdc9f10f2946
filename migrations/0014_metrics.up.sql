-- Jobs that operators can see, and figures of performance that a job computes.

alter table tenantry.jobs
    add column last_succeeded_at timestamptz,
    add column failures bigint not null default 0,
    add column done bigint not null default 0,
    add column seconds double precision not null default 0;
comment on column tenantry.jobs.last_succeeded_at is 'When a run last ended well.';
comment on column tenantry.jobs.failures is 'How many of runs failed.';
comment on column tenantry.jobs.done is 'Rows of all runs.';
comment on column tenantry.jobs.seconds is 'Seconds of all runs.';

-- Pauses before the first response are known only while it is written.
alter table tenantry.tickets
    add column first_response_paused_seconds integer not null default 0 check (first_response_paused_seconds >= 0);
comment on column tenantry.tickets.first_response_paused_seconds is 'How long the clocks had stood still when first_responded_at was set, in seconds, as a trigger keeps it.';
create function tenantry.take_pause_of_first_response() returns trigger
    language plpgsql
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
begin
    new.first_response_paused_seconds := least(old.sla_paused_seconds
        + greatest(coalesce(floor(extract(epoch from new.first_responded_at - old.sla_paused_at)), 0), 0), 2147483647);
    return new;
end
$$;
comment on function tenantry.take_pause_of_first_response() is 'Trigger: keeps first_response_paused_seconds.';
revoke execute on function tenantry.take_pause_of_first_response() from public;
create trigger take_pause before update of first_responded_at on tenantry.tickets for each row
    when (old.first_responded_at is null and new.first_responded_at is not null) execute function tenantry.take_pause_of_first_response();

-- What the figures of a period are made of.
create index tickets_resolved_at_idx on tenantry.tickets (organization_id, resolved_at) where resolved_at is not null;
create index tickets_first_responded_at_idx on tenantry.tickets (organization_id, first_responded_at) where first_responded_at is not null;
create index ticket_messages_sent_idx on tenantry.ticket_messages (organization_id, created_at) where author_user_id is not null and not is_internal;
create index refunds_settled_at_idx on tenantry.refunds (organization_id, settled_at) where settled_at is not null;

alter table tenantry.performance_metrics
    add column first_responses integer not null default 0 check (first_responses >= 0),
    add column refund_totals jsonb not null default '{}' check (jsonb_typeof(refund_totals) = 'object'),
    add column first_response_seconds_p50 double precision,
    add column first_response_seconds_p90 double precision,
    add column first_response_seconds_p95 double precision,
    add column first_response_seconds_p99 double precision,
    add column resolution_seconds_p50 double precision,
    add column resolution_seconds_p90 double precision,
    add column resolution_seconds_p95 double precision,
    add column resolution_seconds_p99 double precision,
    add column first_response_trend tenantry.performance_trend not null default 'FLAT',
    add column tickets_resolved_trend tenantry.performance_trend not null default 'FLAT';
comment on column tenantry.performance_metrics.first_responses is 'Tickets that were answered for the first time.';
comment on column tenantry.performance_metrics.refund_totals is 'JSON object: currency to its settled refunds in minor units.';
comment on column tenantry.performance_metrics.refund_total_minor is 'Settled refunds in currency, in minor units (cents).';
comment on column tenantry.performance_metrics.currency is 'The currency of the most settled refunds; the first in the alphabet of several; USD when there are none.';
comment on column tenantry.performance_metrics.messages_sent is 'Public messages of members that were not deleted.';
comment on column tenantry.performance_metrics.first_response_trend is 'Of the average first response against the period before; UP is better.';
comment on column tenantry.performance_metrics.tickets_resolved_trend is 'Of the tickets resolved against the period before; UP is more.';
alter table tenantry.team_performance
    add column tickets_resolved integer not null default 0 check (tickets_resolved >= 0),
    add column first_responses integer not null default 0 check (first_responses >= 0),
    add column messages_sent integer not null default 0 check (messages_sent >= 0),
    add column first_response_seconds_avg double precision,
    add column first_response_seconds_p50 double precision,
    add column first_response_seconds_p90 double precision,
    add column first_response_seconds_p95 double precision,
    add column first_response_seconds_p99 double precision,
    add column resolution_seconds_p50 double precision,
    add column resolution_seconds_p90 double precision,
    add column resolution_seconds_p95 double precision,
    add column resolution_seconds_p99 double precision,
    add column tickets_handled_trend tenantry.performance_trend not null default 'FLAT';
comment on column tenantry.team_performance.tickets_handled is 'Tickets that the representative answered, or that were resolved while they had them.';
comment on column tenantry.team_performance.satisfaction_score is 'Mean rating, 0 to 5; null: nobody rated, or ratings are not collected.';
comment on column tenantry.team_performance.trend is 'Of the average resolution time against the period before; UP is better.';

-- Which hours of an organization the job has to compute anew. A row for each transaction: two that change the same hour do not wait
-- for each other.
create table tenantry.metric_marks (
    organization_id uuid not null references tenantry.organizations (id),
    hour            timestamptz not null,
    transaction     bigint not null,
    primary key (organization_id, hour, transaction)
);
alter table tenantry.metric_marks enable row level security;
alter table tenantry.metric_marks force row level security;
create policy tenant on tenantry.metric_marks for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.metric_marks for all to tenantry_superadmin using (true) with check (true);
grant select, insert on tenantry.metric_marks to tenantry_app;
grant all on tenantry.metric_marks to tenantry_superadmin;
comment on table tenantry.metric_marks is 'Hours whose figures have changed, as triggers write them down. The job takes them away when it computes the hours anew.';
comment on column tenantry.metric_marks.hour is 'First instant of the hour, UTC.';
comment on column tenantry.metric_marks.transaction is 'The transaction that changed something.';

create function tenantry.mark_hours(p_organization uuid, variadic p_times timestamptz[]) returns void
    language sql
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
    insert into tenantry.metric_marks (organization_id, hour, transaction)
    select p_organization, date_trunc('hour', t, 'UTC'), pg_current_xact_id()::text::bigint
      from unnest(p_times) as t where isfinite(t)
        on conflict do nothing
$$;
comment on function tenantry.mark_hours(uuid, timestamptz[]) is 'Writes down that the figures of the hours of these times have changed; null is no time.';
revoke execute on function tenantry.mark_hours(uuid, timestamptz[]) from public;
grant execute on function tenantry.mark_hours(uuid, timestamptz[]) to tenantry_app, tenantry_superadmin;

create function tenantry.mark_ticket_hours() returns trigger
    language plpgsql
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
begin
    if tg_op = 'INSERT' then
        perform tenantry.mark_hours(new.organization_id, new.created_at, new.first_responded_at, new.resolved_at);
    elsif tg_op = 'DELETE' then
        perform tenantry.mark_hours(old.organization_id, old.created_at, old.first_responded_at, old.resolved_at);
    elsif new.category is distinct from old.category or new.created_at is distinct from old.created_at then
        perform tenantry.mark_hours(new.organization_id, old.created_at, old.first_responded_at, old.resolved_at,
                                    new.created_at, new.first_responded_at, new.resolved_at);
    elsif new.first_responded_at is distinct from old.first_responded_at
          or new.first_response_paused_seconds is distinct from old.first_response_paused_seconds then
        perform tenantry.mark_hours(new.organization_id, old.first_responded_at, old.resolved_at, new.first_responded_at, new.resolved_at);
    else
        perform tenantry.mark_hours(new.organization_id, old.resolved_at, new.resolved_at);
    end if;
    return null;
end
$$;
comment on function tenantry.mark_ticket_hours() is 'Trigger: marks the hours in whose figures a ticket counts.';
create function tenantry.mark_message_hours() returns trigger
    language plpgsql
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
begin
    if tg_op = 'INSERT' then
        perform tenantry.mark_hours(new.organization_id, new.created_at);
    elsif tg_op = 'DELETE' then
        perform tenantry.mark_hours(old.organization_id, old.created_at);
    else
        perform tenantry.mark_hours(new.organization_id, old.created_at, new.created_at);
    end if;
    return null;
end
$$;
comment on function tenantry.mark_message_hours() is 'Trigger: marks the hour in whose figures a message or an escalation counts.';
create function tenantry.mark_refund_hours() returns trigger
    language plpgsql
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
begin
    if tg_op = 'INSERT' then
        perform tenantry.mark_hours(new.organization_id, new.created_at, new.settled_at);
    elsif tg_op = 'DELETE' then
        perform tenantry.mark_hours(old.organization_id, old.created_at, old.settled_at);
    elsif new.created_at is distinct from old.created_at then
        perform tenantry.mark_hours(new.organization_id, old.created_at, old.settled_at, new.created_at, new.settled_at);
    else
        perform tenantry.mark_hours(new.organization_id, old.settled_at, new.settled_at);
    end if;
    return null;
end
$$;
comment on function tenantry.mark_refund_hours() is 'Trigger: marks the hours in whose figures a refund counts.';
create function tenantry.mark_representative_hours() returns trigger
    language plpgsql
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
begin
    insert into tenantry.metric_marks (organization_id, hour, transaction)
    select new.organization_id, date_trunc('hour', m.created_at, 'UTC'), pg_current_xact_id()::text::bigint
      from tenantry.ticket_messages m
     where m.organization_id = new.organization_id and m.author_user_id = new.user_id and not m.is_internal
        on conflict do nothing;
    return null;
end
$$;
comment on function tenantry.mark_representative_hours() is 'Trigger: marks the hours in which somebody who becomes a representative has written before.';
revoke execute on function tenantry.mark_ticket_hours(), tenantry.mark_message_hours(), tenantry.mark_refund_hours(), tenantry.mark_representative_hours() from public;

create trigger mark_hours_of_new after insert on tenantry.tickets for each row execute function tenantry.mark_ticket_hours();
create trigger mark_hours_of_old after delete on tenantry.tickets for each row execute function tenantry.mark_ticket_hours();
create trigger mark_hours after update of created_at, first_responded_at, first_response_paused_seconds, resolved_at, sla_paused_seconds, category, assignee_id, merged_into_id
    on tenantry.tickets for each row
    when (new.resolved_at is distinct from old.resolved_at
          or new.first_responded_at is distinct from old.first_responded_at
          or new.first_response_paused_seconds <> old.first_response_paused_seconds
          or new.category <> old.category
          or new.created_at <> old.created_at
          or (new.resolved_at is not null and (new.sla_paused_seconds <> old.sla_paused_seconds
              or new.assignee_id is distinct from old.assignee_id or new.merged_into_id is distinct from old.merged_into_id)))
    execute function tenantry.mark_ticket_hours();
create trigger mark_hours_of_new after insert on tenantry.ticket_messages for each row
    when (new.author_user_id is not null and not new.is_internal) execute function tenantry.mark_message_hours();
create trigger mark_hours_of_old after delete on tenantry.ticket_messages for each row
    when (old.author_user_id is not null and not old.is_internal) execute function tenantry.mark_message_hours();
create trigger mark_hours after update of created_at, ticket_id, moved_from_id, author_user_id, is_internal, deleted_at on tenantry.ticket_messages for each row
    when ((new.created_at, new.ticket_id, new.moved_from_id, new.author_user_id, new.is_internal, new.deleted_at)
          is distinct from (old.created_at, old.ticket_id, old.moved_from_id, old.author_user_id, old.is_internal, old.deleted_at))
    execute function tenantry.mark_message_hours();
create trigger mark_hours_of_new after insert on tenantry.escalations for each row execute function tenantry.mark_message_hours();
create trigger mark_hours_of_old after delete on tenantry.escalations for each row execute function tenantry.mark_message_hours();
create trigger mark_hours after update of created_at, ticket_id on tenantry.escalations for each row
    when ((new.created_at, new.ticket_id) is distinct from (old.created_at, old.ticket_id)) execute function tenantry.mark_message_hours();
create trigger mark_hours_of_new after insert on tenantry.refunds for each row execute function tenantry.mark_refund_hours();
create trigger mark_hours_of_old after delete on tenantry.refunds for each row execute function tenantry.mark_refund_hours();
create trigger mark_hours after update of created_at, settled_at, status, amount_minor, currency on tenantry.refunds for each row
    when ((new.created_at, new.settled_at, new.amount_minor, new.currency) is distinct from (old.created_at, old.settled_at, old.amount_minor, old.currency)
          or (new.settled_at is not null and new.status <> old.status))
    execute function tenantry.mark_refund_hours();
create trigger mark_hours_of_new after insert on tenantry.representatives for each row execute function tenantry.mark_representative_hours();

-- What is there already is computed by the first runs of the job.
set local role tenantry_superadmin;
insert into tenantry.metric_marks (organization_id, hour, transaction)
select distinct organization_id, date_trunc('hour', t, 'UTC'), 0 from (
    select organization_id, unnest(array[created_at, first_responded_at, resolved_at]) as t from tenantry.tickets
    union all select organization_id, created_at from tenantry.ticket_messages
    union all select organization_id, created_at from tenantry.escalations
    union all select organization_id, unnest(array[created_at, settled_at]) from tenantry.refunds
    union all select organization_id, period_start from tenantry.performance_metrics) times
 where isfinite(t);
reset role;
