-- Customers that become one, and their history; absences of representatives; deadlines of escalations and who is told of them.

alter table tenantry.customer_profiles
    add column merged_into_id uuid check (merged_into_id <> id),
    add foreign key (organization_id, merged_into_id) references tenantry.customer_profiles (organization_id, id),
    add constraint customer_profiles_merged_check check (merged_into_id is null or deleted_at is not null);
comment on column tenantry.customer_profiles.merged_into_id is 'The profile that this one went into, with its tickets, messages and refunds.';
create index customer_profiles_merged_into_id_idx on tenantry.customer_profiles (organization_id, merged_into_id) where merged_into_id is not null;
grant update (merged_into_id) on tenantry.customer_profiles to tenantry_app;

-- The API's role cannot set user_id, which makes a user row visible. This moves a link between two profiles of the same
-- organization, so that nobody becomes visible who was not.
create function tenantry.move_customer_account(p_from uuid, p_into uuid) returns void
    language plpgsql security definer
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
declare
    own constant uuid := tenantry.current_org();
    account uuid;
begin
    select f.user_id into account from tenantry.customer_profiles f
      join tenantry.customer_profiles i on i.organization_id = own and i.id = p_into and i.user_id is null
     where f.organization_id = own and f.id = p_from and f.merged_into_id = p_into;
    if account is null then
        return;
    end if;
    update tenantry.customer_profiles set user_id = null where organization_id = own and id = p_from;
    update tenantry.customer_profiles set user_id = account where organization_id = own and id = p_into;
end
$$;
comment on function tenantry.move_customer_account(uuid, uuid) is 'Gives the account of a merged profile to the one that it went into, if that has none.';
revoke execute on function tenantry.move_customer_account(uuid, uuid) from public;
grant execute on function tenantry.move_customer_account(uuid, uuid) to tenantry_app, tenantry_superadmin;
-- A new owner needs CREATE on the schema at the moment it becomes one, and only then.
grant create on schema tenantry to tenantry_superadmin;
alter function tenantry.move_customer_account(uuid, uuid) owner to tenantry_superadmin;
revoke create on schema tenantry from tenantry_superadmin;

create table tenantry.representative_absences (
    id              uuid not null,
    organization_id uuid not null references tenantry.organizations (id),
    representative_id uuid not null,
    starts_at       timestamptz not null,
    ends_at         timestamptz not null,
    note            text check (char_length(note) <= 500),
    created_at      timestamptz not null default now(),
    primary key (organization_id, id),
    foreign key (organization_id, representative_id) references tenantry.representatives (organization_id, id) on delete cascade,
    check (ends_at > starts_at)
);
alter table tenantry.representative_absences enable row level security;
alter table tenantry.representative_absences force row level security;
create policy tenant on tenantry.representative_absences for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.representative_absences for all to tenantry_superadmin using (true) with check (true);
grant select, insert, delete on tenantry.representative_absences to tenantry_app;
grant all on tenantry.representative_absences to tenantry_superadmin;
create index representative_absences_representative_id_idx on tenantry.representative_absences (organization_id, representative_id, starts_at, id);
create index representative_absences_starts_at_idx on tenantry.representative_absences (organization_id, starts_at, id);
create index representative_absences_ends_at_idx on tenantry.representative_absences (organization_id, ends_at, id);
comment on table tenantry.representative_absences is 'When representatives are away: nothing is assigned to them automatically.';
comment on column tenantry.representative_absences.starts_at is 'Inclusive. The absences of one representative do not overlap: their row is locked while one is added.';
comment on column tenantry.representative_absences.ends_at is 'Exclusive.';
comment on column tenantry.representative_absences.note is 'Why, in words; at most 500 characters.';

alter table tenantry.escalations
    add column due_at timestamptz,
    add column overdue_at timestamptz;
comment on column tenantry.escalations.due_at is 'Deadline of the resolution; null: none.';
comment on column tenantry.escalations.overdue_at is 'When the job found it overdue; null: it was not.';
create index escalations_due_at_idx on tenantry.escalations
    (organization_id, (due_at is null), (case when due_at is null then '-infinity'::timestamptz else due_at end), id);
create index escalations_overdue_idx on tenantry.escalations (organization_id, due_at)
    where overdue_at is null and due_at is not null and status_rank < 3;

create table tenantry.escalation_rules (
    id              uuid not null,
    organization_id uuid not null references tenantry.organizations (id),
    name            text not null check (char_length(name) between 1 and 100),
    reason          tenantry.escalation_reason,
    minimum_priority tenantry.escalation_priority not null default 'LOW',
    role            tenantry.representative_role,
    user_id         uuid references tenantry.users (id),
    assignee_id     uuid,
    version         integer not null default 1 check (version > 0),
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    primary key (organization_id, id),
    foreign key (organization_id, user_id) references tenantry.organization_members (organization_id, user_id) on delete cascade,
    foreign key (organization_id, assignee_id) references tenantry.representatives (organization_id, id),
    check (num_nonnulls(role, user_id, assignee_id) > 0)
);
alter table tenantry.escalation_rules enable row level security;
alter table tenantry.escalation_rules force row level security;
create policy tenant on tenantry.escalation_rules for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.escalation_rules for all to tenantry_superadmin using (true) with check (true);
grant select, insert, update, delete on tenantry.escalation_rules to tenantry_app;
grant all on tenantry.escalation_rules to tenantry_superadmin;
create index escalation_rules_name_idx on tenantry.escalation_rules (organization_id, name, id);
create index escalation_rules_created_at_idx on tenantry.escalation_rules (organization_id, created_at, id);
create index escalation_rules_user_id_idx on tenantry.escalation_rules (organization_id, user_id) where user_id is not null;
create index escalation_rules_assignee_id_idx on tenantry.escalation_rules (organization_id, assignee_id) where assignee_id is not null;
create trigger touch_updated_at before update on tenantry.escalation_rules for each row execute function tenantry.touch_updated_at();
comment on table tenantry.escalation_rules is 'Who is told of which escalations, and who gets them.';
comment on column tenantry.escalation_rules.reason is 'Only escalations for this reason; null: all.';
comment on column tenantry.escalation_rules.minimum_priority is 'Only escalations of this priority or a higher one.';
comment on column tenantry.escalation_rules.role is 'Every representative of this role is told.';
comment on column tenantry.escalation_rules.user_id is 'This member is told.';
comment on column tenantry.escalation_rules.assignee_id is 'This representative gets it, unless somebody is named.';
comment on column tenantry.escalation_rules.version is 'Optimistic lock: every update by a user adds one; a writer that brings an older number is refused.';

create table tenantry.escalation_notices (
    id              uuid not null,
    organization_id uuid not null references tenantry.organizations (id),
    escalation_id   uuid not null,
    user_id         uuid not null references tenantry.users (id),
    seen_at         timestamptz,
    created_at      timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, escalation_id, user_id),
    foreign key (organization_id, escalation_id) references tenantry.escalations (organization_id, id) on delete cascade,
    foreign key (organization_id, user_id) references tenantry.organization_members (organization_id, user_id) on delete cascade
);
alter table tenantry.escalation_notices enable row level security;
alter table tenantry.escalation_notices force row level security;
create policy tenant on tenantry.escalation_notices for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.escalation_notices for all to tenantry_superadmin using (true) with check (true);
grant select, insert, update on tenantry.escalation_notices to tenantry_app;
grant all on tenantry.escalation_notices to tenantry_superadmin;
create index escalation_notices_escalation_id_idx on tenantry.escalation_notices (organization_id, escalation_id, created_at, id);
create index escalation_notices_user_id_idx on tenantry.escalation_notices (organization_id, user_id, created_at, id);
create index escalation_notices_created_at_idx on tenantry.escalation_notices (organization_id, created_at, id);
comment on table tenantry.escalation_notices is 'Who was told of which escalation.';
comment on column tenantry.escalation_notices.seen_at is 'When they saw it; null: not yet.';

-- Whose tickets messages and escalations are of, so that an index has the history of a customer in its order. Triggers keep it: what
-- changes a ticket need not know of it.
alter table tenantry.ticket_messages
    add column customer_id uuid,
    add foreign key (organization_id, customer_id) references tenantry.customer_profiles (organization_id, id);
alter table tenantry.escalations
    add column customer_id uuid,
    add foreign key (organization_id, customer_id) references tenantry.customer_profiles (organization_id, id);
comment on column tenantry.ticket_messages.customer_id is 'The customer of the ticket, whoever wrote, as a trigger keeps it.';
comment on column tenantry.escalations.customer_id is 'The customer of the ticket, as a trigger keeps it.';
-- What is there already, without a new time of change.
alter table tenantry.ticket_messages disable trigger touch_updated_at;
alter table tenantry.escalations disable trigger touch_updated_at;
set local role tenantry_superadmin;
update tenantry.ticket_messages m set customer_id = t.customer_id from tenantry.tickets t
 where t.organization_id = m.organization_id and t.id = m.ticket_id and t.customer_id is not null;
update tenantry.escalations e
   set customer_id = t.customer_id,
       due_at = e.created_at + case e.priority when 'URGENT' then interval '1 hour' when 'HIGH' then interval '4 hours'
                                               when 'NORMAL' then interval '24 hours' else interval '72 hours' end
  from tenantry.tickets t where t.organization_id = e.organization_id and t.id = e.ticket_id;
reset role;
alter table tenantry.ticket_messages enable trigger touch_updated_at;
alter table tenantry.escalations enable trigger touch_updated_at;
create index ticket_messages_customer_id_idx on tenantry.ticket_messages (organization_id, customer_id, created_at, id);
create index escalations_customer_id_idx on tenantry.escalations (organization_id, customer_id, created_at, id);

create function tenantry.take_customer_of_ticket() returns trigger
    language plpgsql
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
begin
    select t.customer_id into new.customer_id from tenantry.tickets t where t.organization_id = new.organization_id and t.id = new.ticket_id;
    return new;
end
$$;
create function tenantry.pass_customer_on() returns trigger
    language plpgsql
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
begin
    update tenantry.ticket_messages set customer_id = new.customer_id where organization_id = new.organization_id and ticket_id = new.id;
    update tenantry.escalations set customer_id = new.customer_id where organization_id = new.organization_id and ticket_id = new.id;
    return null;
end
$$;
comment on function tenantry.take_customer_of_ticket() is 'Trigger: a message or an escalation is of the customer of its ticket.';
comment on function tenantry.pass_customer_on() is 'Trigger: the messages and escalations of a ticket with another customer are theirs.';
revoke execute on function tenantry.take_customer_of_ticket(), tenantry.pass_customer_on() from public;
create trigger take_customer before insert or update of ticket_id on tenantry.ticket_messages
    for each row execute function tenantry.take_customer_of_ticket();
create trigger take_customer before insert or update of ticket_id on tenantry.escalations
    for each row execute function tenantry.take_customer_of_ticket();
create trigger pass_customer_on after update of customer_id on tenantry.tickets for each row
    when (new.customer_id is distinct from old.customer_id) execute function tenantry.pass_customer_on();

-- What happened with a customer: each branch is in the order of an index of its own. A branch with a condition would be read whole and
-- sorted, so that only the last one, of a few rows, has one: what is of no customer has null, and no customer's list shows it.
create type tenantry.customer_event_kind as enum ('TICKET', 'MESSAGE', 'REFUND', 'ESCALATION', 'CHANGE');
comment on type tenantry.customer_event_kind is 'What happened with a customer.';
create view tenantry.customer_events with (security_invoker = true) as
    select t.id, t.organization_id, t.customer_id, 'TICKET'::tenantry.customer_event_kind as kind, t.id as ticket_id, null::uuid as message_id,
           null::uuid as refund_id, null::uuid as escalation_id, null::uuid as user_id, null::text as action, null::jsonb as changes,
           false as is_internal, t.created_at
      from tenantry.tickets t
    union all
    select m.id, m.organization_id, m.customer_id, 'MESSAGE', m.ticket_id, m.id, null, null, m.author_user_id, null, null, m.is_internal, m.created_at
      from tenantry.ticket_messages m
    union all
    select r.id, r.organization_id, r.customer_id, 'REFUND', r.ticket_id, null, r.id, null, r.requested_by, null, null, false, r.created_at
      from tenantry.refunds r
    union all
    select e.id, e.organization_id, e.customer_id, 'ESCALATION', e.ticket_id, null, null, e.id, e.escalated_by, null, null, false, e.created_at
      from tenantry.escalations e
    union all
    select a.id, a.organization_id, a.resource_id, 'CHANGE', null, null, null, null, a.user_id, a.action, a.metadata, true, a.created_at
      from tenantry.audit_logs a where a.resource_type = 'Customer' and a.resource_id is not null;
grant select on tenantry.customer_events to tenantry_app, tenantry_superadmin;
comment on view tenantry.customer_events is 'The history of customers: tickets, messages, refunds, escalations, and changes of the profile as the audit log has them.';
