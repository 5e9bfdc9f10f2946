-- What plans give and who has more: the terms of plans, grants, calls of the API; seats and who waits for one.

create type tenantry.seat_policy as enum ('FIXED', 'AUTOMATIC');
comment on type tenantry.seat_policy is 'What happens when somebody joins and all seats are taken.';

create table tenantry.plan_terms (
    plan                tenantry.organization_plan primary key,
    seats               integer check (seats > 0),
    seat_policy         tenantry.seat_policy not null default 'FIXED',
    budgets             integer check (budgets >= 0),
    api_calls_per_month bigint check (api_calls_per_month >= 0),
    is_settled          boolean not null default true,
    updated_at          timestamptz not null default now()
);

alter table tenantry.plan_terms enable row level security;
alter table tenantry.plan_terms force row level security;
create policy tenant on tenantry.plan_terms for select to tenantry_app using (true);
create policy superadmin on tenantry.plan_terms for all to tenantry_superadmin using (true) with check (true);
grant select on tenantry.plan_terms to tenantry_app;
grant all on tenantry.plan_terms to tenantry_superadmin;
create trigger touch_updated_at before update on tenantry.plan_terms for each row execute function tenantry.touch_updated_at();

comment on table tenantry.plan_terms is 'The limits of the file of the plans, as the server that started last has read it: the database counts with them. Holds nothing of a tenant: everybody may read it.';
comment on column tenantry.plan_terms.seats is 'Seats where none are bought by number; null: no limit.';
comment on column tenantry.plan_terms.budgets is 'Budgets that are not archived; null: no limit.';
comment on column tenantry.plan_terms.api_calls_per_month is 'Requests to the API in a month (UTC); null: no limit.';
comment on column tenantry.plan_terms.is_settled is 'False: the terms have changed, and a job has to look after the seats of all organizations.';

set local role tenantry_superadmin;
insert into tenantry.plan_terms (plan) select unnest(enum_range(null::tenantry.organization_plan));
reset role;

create table tenantry.entitlement_grants (
    organization_id uuid not null references tenantry.organizations (id),
    key             text not null check (key in ('seats', 'budgets', 'api_calls')),
    amount          bigint not null check (amount between 1 and 1000000000000),
    reason          text not null check (char_length(reason) between 1 and 500),
    expires_at      timestamptz,
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    primary key (organization_id, key),
    check (key <> 'seats' or amount <= 1000000)
);

alter table tenantry.entitlement_grants enable row level security;
alter table tenantry.entitlement_grants force row level security;
create policy tenant on tenantry.entitlement_grants for select to tenantry_app using (organization_id = tenantry.current_org());
create policy superadmin on tenantry.entitlement_grants for all to tenantry_superadmin using (true) with check (true);
grant select on tenantry.entitlement_grants to tenantry_app;
grant all on tenantry.entitlement_grants to tenantry_superadmin;
create index entitlement_grants_expires_at_idx on tenantry.entitlement_grants (expires_at) where expires_at is not null;
create trigger touch_updated_at before update on tenantry.entitlement_grants for each row execute function tenantry.touch_updated_at();

comment on table tenantry.entitlement_grants is 'What operators of the platform gave an organization beyond its plan. Who did is in its audit log.';
comment on column tenantry.entitlement_grants.key is 'What there is more of.';
comment on column tenantry.entitlement_grants.amount is 'How many more.';
comment on column tenantry.entitlement_grants.reason is 'Why, in words.';
comment on column tenantry.entitlement_grants.expires_at is 'From here on as if the row were not there; null: never.';
comment on index tenantry.entitlement_grants_expires_at_idx is 'For the job that ends grants of seats.';

create table tenantry.api_usage (
    organization_id uuid not null references tenantry.organizations (id),
    month           date not null check (extract(day from month) = 1),
    calls           bigint not null check (calls > 0),
    primary key (organization_id, month)
);

alter table tenantry.api_usage enable row level security;
alter table tenantry.api_usage force row level security;
create policy tenant on tenantry.api_usage for select to tenantry_app using (organization_id = tenantry.current_org());
create policy superadmin on tenantry.api_usage for all to tenantry_superadmin using (true) with check (true);
grant select on tenantry.api_usage to tenantry_app;
grant all on tenantry.api_usage to tenantry_superadmin;

comment on table tenantry.api_usage is 'Requests to the API. Counted in memory and written every few seconds: a crash loses those of its last.';
comment on column tenantry.api_usage.month is 'First day of the month (UTC).';
comment on column tenantry.api_usage.calls is 'Requests of the month so far.';

create index organization_members_waiting_idx on tenantry.organization_members (organization_id) where waits_for_seat and deleted_at is null;
comment on index tenantry.organization_members_waiting_idx is 'Says at once that nobody waits, as almost everywhere.';

-- What was granted of this, now. These are in plpgsql because it keeps their plans: 10 times as fast.
create function tenantry.granted(p_organization_id uuid, p_key text) returns bigint
    language plpgsql stable
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
begin
    return coalesce((select g.amount from tenantry.entitlement_grants g
                      where g.organization_id = p_organization_id and g.key = p_key and (g.expires_at is null or g.expires_at > now())), 0);
end
$$;
comment on function tenantry.granted(uuid, text) is 'How many more of something operators gave an organization.';

-- A subscription sells seats by number when a price says so, or there is more than one; it gives them while it is paid for. Where
-- seats are added by themselves there is no limit.
create function tenantry.seat_limit(p_organization_id uuid) returns bigint
    language plpgsql stable
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
declare
    bought record;
    terms record;
begin
    select s.plan, s.status, s.seat_count, s.sells_seats into bought from tenantry.subscriptions s where s.organization_id = p_organization_id;
    select t.seats, t.seat_policy into terms from tenantry.plan_terms t where t.plan = coalesce(bought.plan, 'FREE');
    if coalesce(bought.sells_seats or bought.seat_count > 1, false)
       and (bought.status in ('TRIALING', 'ACTIVE') or bought.status = 'PAST_DUE' and bought.plan <> 'FREE') then
        if terms.seat_policy = 'AUTOMATIC' then
            return null;
        end if;
        return greatest(bought.seat_count, 1) + tenantry.granted(p_organization_id, 'seats');
    elsif terms.seats is null then
        return null;
    end if;
    return terms.seats + tenantry.granted(p_organization_id, 'seats');
end
$$;
comment on function tenantry.seat_limit(uuid) is 'How many members of an organization may do more than read; null: any number.';

-- The place where seats are given and taken. Owners come first, then who joined first: a rule over the rows as they are, so that it
-- does not matter in which order they came to be so. The organization is locked, and callers that lock members lock it before.
create function tenantry.settle_seats(p_organization_id uuid) returns void
    language plpgsql volatile security definer
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
declare
    most bigint;
    changed record;
    told integer := 0;
begin
    -- An import settles them when all rows are there.
    if current_setting('app.seats_are_settled_later', true) = 'on' then
        return;
    end if;
    if tenantry.seat_limit(p_organization_id) is null and not exists (
        select from tenantry.organization_members m where m.organization_id = p_organization_id and m.waits_for_seat and m.deleted_at is null) then
        -- Whoever makes a limit meanwhile has the organization locked, and sees this member only after the commit: wait, and look again.
        perform from tenantry.organizations o where o.id = p_organization_id for share;
        if tenantry.seat_limit(p_organization_id) is null then
            return;
        end if;
    end if;
    perform from tenantry.organizations o where o.id = p_organization_id and (o.purge_at is null or o.purge_at > now()) for no key update;
    if not found then
        return;
    end if;
    most := tenantry.seat_limit(p_organization_id);
    for changed in
        update tenantry.organization_members m set waits_for_seat = n.waits
          from (select o.id, o.takes and coalesce(o.place > most, false) as waits
                  from (select x.id, x.role <> 'VIEWER' or x.custom_role_id is not null as takes,
                               row_number() over (partition by x.role <> 'VIEWER' or x.custom_role_id is not null
                                                      order by x.role <> 'OWNER', x.created_at, u.clerk_id) as place
                          from tenantry.organization_members x join tenantry.users u on u.id = x.user_id
                         where x.organization_id = p_organization_id and x.deleted_at is null) o) n
         where m.organization_id = p_organization_id and m.id = n.id and m.waits_for_seat <> n.waits
        returning m.id, m.user_id, m.waits_for_seat
    loop
        insert into tenantry.audit_logs (organization_id, id, action, resource_type, resource_id, metadata)
        values (p_organization_id, gen_random_uuid(), 'member.seat', 'OrganizationMember', changed.id,
                jsonb_build_object('before', jsonb_build_object('seat', changed.waits_for_seat), 'after', jsonb_build_object('seat', not changed.waits_for_seat)));
        told := told + 1;
        -- Streams look again: of each that it concerns, or of all.
        if told <= 20 then
            perform tenantry.tell_access(p_organization_id, changed.user_id);
        elsif told = 21 then
            perform tenantry.tell_access(p_organization_id, '00000000-0000-0000-0000-000000000000');
        end if;
    end loop;
end
$$;
comment on function tenantry.settle_seats(uuid) is 'Gives seats to as many members as there are seats for, and has the others wait.';

-- As `events.rs` tells: only if somebody may hear it.
create function tenantry.tell_access(p_organization_id uuid, p_user_id uuid) returns void
    language plpgsql volatile
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
begin
    if not pg_try_advisory_xact_lock(1953395833, get_byte(uuid_send(p_organization_id), 15)) then
        perform pg_notify('tenantry_events', json_build_object('organization', p_organization_id,
            'event', json_build_object('topic', 'Access', 'id', p_user_id))::text);
    end if;
end
$$;
comment on function tenantry.tell_access(uuid, uuid) is 'Tells streams that a user may do other things than before, when the transaction commits.';

create function tenantry.settle_seats_of_members() returns trigger
    language plpgsql volatile security definer
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
declare
    concerned uuid;
begin
    for concerned in select distinct c.organization_id from changed c order by 1 loop
        perform tenantry.settle_seats(concerned);
    end loop;
    return null;
end
$$;
comment on function tenantry.settle_seats_of_members() is 'Trigger: members came or are gone.';
create function tenantry.settle_seats_of_changed_members() returns trigger
    language plpgsql volatile security definer
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
declare
    concerned uuid;
begin
    for concerned in
        -- No join: nothing is known of the size of these two, and a nested loop over many is for ever.
        select distinct d.organization_id
          from (select c.organization_id, c.id, c.user_id, c.role, c.custom_role_id, c.deleted_at, c.created_at from changed c
                except select f.organization_id, f.id, f.user_id, f.role, f.custom_role_id, f.deleted_at, f.created_at from former f) d
         order by 1
    loop
        perform tenantry.settle_seats(concerned);
    end loop;
    return null;
end
$$;
comment on function tenantry.settle_seats_of_changed_members() is 'Trigger: members changed.';
create function tenantry.settle_seats_of_terms() returns trigger
    language plpgsql volatile security definer
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
begin
    perform tenantry.settle_seats(case when tg_op = 'DELETE' then old.organization_id else new.organization_id end);
    return null;
end
$$;
comment on function tenantry.settle_seats_of_terms() is 'Trigger: a subscription or a grant changed.';

create trigger settle_seats_of_new after insert on tenantry.organization_members
    referencing new table as changed for each statement execute function tenantry.settle_seats_of_members();
create trigger settle_seats after update on tenantry.organization_members
    referencing old table as former new table as changed for each statement execute function tenantry.settle_seats_of_changed_members();
create trigger settle_seats_of_old after delete on tenantry.organization_members
    referencing old table as changed for each statement execute function tenantry.settle_seats_of_members();
create trigger settle_seats_of_new after insert or delete on tenantry.subscriptions for each row execute function tenantry.settle_seats_of_terms();
create trigger settle_seats after update on tenantry.subscriptions for each row
    when ((old.plan, old.status, old.seat_count, old.sells_seats) is distinct from (new.plan, new.status, new.seat_count, new.sells_seats))
    execute function tenantry.settle_seats_of_terms();
create trigger settle_seats after insert or update or delete on tenantry.entitlement_grants for each row execute function tenantry.settle_seats_of_terms();

-- For the job and for `tenantry verify`.
create function tenantry.wrong_seats() returns table (organization_id uuid, members bigint)
    language sql stable
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
        with limits as materialized (
            select o.id, tenantry.seat_limit(o.id) as most from tenantry.organizations o where o.deleted_at is null
        ), placed as (
            select m.organization_id, m.waits_for_seat, l.most, m.role <> 'VIEWER' or m.custom_role_id is not null as takes,
                   row_number() over (partition by m.organization_id, m.role <> 'VIEWER' or m.custom_role_id is not null
                                          order by m.role <> 'OWNER', m.created_at, u.clerk_id) as place
              from limits l join tenantry.organization_members m on m.organization_id = l.id and m.deleted_at is null
              join tenantry.users u on u.id = m.user_id
        )
        select p.organization_id, count(*) from placed p where p.waits_for_seat <> (p.takes and coalesce(p.place > p.most, false)) group by 1
    $$;
comment on function tenantry.wrong_seats() is 'Organizations where members have a seat who should wait, or wait who could have one. None, unless the terms of plans changed or a grant expired just now.';

create function tenantry.budget_limit(p_organization_id uuid) returns bigint
    language plpgsql stable
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
declare
    most bigint;
begin
    select t.budgets into most from tenantry.plan_terms t
     where t.plan = coalesce((select s.plan from tenantry.subscriptions s where s.organization_id = p_organization_id), 'FREE');
    return case when most is not null then most + tenantry.granted(p_organization_id, 'budgets') end;
end
$$;
comment on function tenantry.budget_limit(uuid) is 'How many budgets an organization may use; null: any number.';

create function tenantry.is_over_plan(p_organization_id uuid, p_series_id uuid) returns boolean
    language plpgsql stable
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
begin
    -- Spending asks this under the lock of its budgets: most plans are done here.
    if (select t.budgets from tenantry.plan_terms t
         where t.plan = coalesce((select s.plan from tenantry.subscriptions s where s.organization_id = p_organization_id), 'FREE')) is null then
        return false;
    end if;
    return tenantry.budget_limit(p_organization_id) <= (select count(*) from tenantry.budgets b
        where b.organization_id = p_organization_id and b.closed_at is null and b.archived_at is null and b.series_id < p_series_id);
end
$$;
comment on function tenantry.is_over_plan(uuid, uuid) is 'Whether the plan has no room for this budget: there are as many older ones as it gives.';

revoke execute on function tenantry.granted(uuid, text), tenantry.seat_limit(uuid), tenantry.settle_seats(uuid), tenantry.tell_access(uuid, uuid),
    tenantry.settle_seats_of_members(), tenantry.settle_seats_of_changed_members(), tenantry.settle_seats_of_terms(), tenantry.wrong_seats(),
    tenantry.budget_limit(uuid), tenantry.is_over_plan(uuid, uuid) from public;
grant execute on function tenantry.settle_seats(uuid), tenantry.tell_access(uuid, uuid), tenantry.wrong_seats() to tenantry_superadmin;
grant execute on function tenantry.granted(uuid, text), tenantry.seat_limit(uuid), tenantry.budget_limit(uuid), tenantry.is_over_plan(uuid, uuid)
    to tenantry_app, tenantry_superadmin;
grant create on schema tenantry to tenantry_superadmin;
alter function tenantry.settle_seats(uuid) owner to tenantry_superadmin;
alter function tenantry.settle_seats_of_members() owner to tenantry_superadmin;
alter function tenantry.settle_seats_of_changed_members() owner to tenantry_superadmin;
alter function tenantry.settle_seats_of_terms() owner to tenantry_superadmin;
revoke create on schema tenantry from tenantry_superadmin;
