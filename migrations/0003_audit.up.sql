-- What was done, and by whom: idempotency keys of mutations, the audit log of each tenant and that of the platform.

create table tenantry.idempotency_keys (
    organization_id uuid not null references tenantry.organizations (id),
    actor_id        uuid not null,
    key             text not null check (char_length(key) between 1 and 255),
    operation       text not null check (char_length(operation) between 1 and 200),
    request_hash    bytea not null,
    resource_id     uuid,
    created_at      timestamptz not null default now(),
    primary key (organization_id, actor_id, key)
);

alter table tenantry.idempotency_keys enable row level security;
alter table tenantry.idempotency_keys force row level security;
create policy tenant on tenantry.idempotency_keys for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.idempotency_keys for all to tenantry_superadmin using (true) with check (true);
grant select, insert, update on tenantry.idempotency_keys to tenantry_app;
grant all on tenantry.idempotency_keys to tenantry_superadmin;

create index idempotency_keys_created_at_idx on tenantry.idempotency_keys (organization_id, created_at);
create index idempotency_keys_expiry_idx on tenantry.idempotency_keys (created_at);

comment on table tenantry.idempotency_keys is 'Mutations already done: the same key of the same user or program gets the same answer.';
comment on column tenantry.idempotency_keys.actor_id is 'The user, or the API key, whose key this is.';
comment on column tenantry.idempotency_keys.operation is 'Name of the mutation field.';
comment on column tenantry.idempotency_keys.request_hash is 'SHA-256 of the arguments: the same key with others is an error.';
comment on column tenantry.idempotency_keys.resource_id is 'The row the mutation made or changed.';
comment on index tenantry.idempotency_keys_expiry_idx is 'For the job that clears old keys of all tenants.';

create table tenantry.audit_logs (
    id              uuid not null,
    organization_id uuid not null references tenantry.organizations (id),
    user_id         uuid references tenantry.users (id),
    api_key_id      uuid,
    impersonator    text check (char_length(impersonator) between 1 and 255),
    action          text not null check (char_length(action) between 1 and 200),
    resource_type   text not null check (char_length(resource_type) between 1 and 100),
    resource_id     uuid,
    metadata        jsonb not null default '{}' check (jsonb_typeof(metadata) = 'object'),
    ip_address      inet,
    request_id      text check (char_length(request_id) <= 200),
    created_at      timestamptz not null default now(),
    primary key (organization_id, created_at, id),
    foreign key (organization_id, api_key_id) references tenantry.api_keys (organization_id, id),
    check (num_nonnulls(user_id, api_key_id) <= 1)
) partition by range (created_at);

alter table tenantry.audit_logs enable row level security;
alter table tenantry.audit_logs force row level security;
create policy tenant on tenantry.audit_logs for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.audit_logs for all to tenantry_superadmin using (true) with check (true);
grant select, insert on tenantry.audit_logs to tenantry_app, tenantry_superadmin;

create index audit_logs_user_id_idx on tenantry.audit_logs (organization_id, user_id, created_at, id);
create index audit_logs_api_key_id_idx on tenantry.audit_logs (organization_id, api_key_id, created_at, id)
    where api_key_id is not null;
create index audit_logs_impersonator_idx on tenantry.audit_logs (organization_id, impersonator, created_at, id)
    where impersonator is not null;
create index audit_logs_id_idx on tenantry.audit_logs (organization_id, id);
create index audit_logs_resource_idx on tenantry.audit_logs (organization_id, resource_id, created_at, id);
create index audit_logs_action_idx on tenantry.audit_logs (organization_id, action, created_at, id);

create function tenantry.refuse_audit_change() returns trigger
    language plpgsql
    as $$
begin
    raise exception 'audit_logs is append only: % refused', pg_catalog.lower(tg_op)
        using errcode = 'insufficient_privilege',
              hint = 'Old months are dropped as whole partitions.';
end
$$;
comment on function tenantry.refuse_audit_change() is 'Trigger: refuses update, delete and truncate, for every role.';
revoke execute on function tenantry.refuse_audit_change() from public;

-- PostgreSQL copies row triggers to the partitions, statement triggers not: see tenantry.secure_audit_partition.
create function tenantry.refuse_audit_log_change() returns trigger
    language plpgsql
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
begin
    if tg_op = 'DELETE' and exists (
        select from tenantry.audit_seals s join tenantry.audit_horizons h on h.organization_id = s.organization_id
         where s.organization_id = old.organization_id and s.audit_log_id = old.id and s.position < h.kept_from) then
        return old;
    end if;
    raise exception 'audit_logs is append only: % refused', pg_catalog.lower(tg_op)
        using errcode = 'insufficient_privilege',
              hint = 'Old months are dropped as whole partitions; tenantry.expire_audit_log removes what is past its retention.';
end
$$;
comment on function tenantry.refuse_audit_log_change() is 'Trigger: refuses update and delete, for every role, but for rows of the chain before the horizon of their organization.';
revoke execute on function tenantry.refuse_audit_log_change() from public;
create trigger append_only before update or delete on tenantry.audit_logs for each row execute function tenantry.refuse_audit_log_change();
create trigger append_only_truncate before truncate on tenantry.audit_logs for each statement execute function tenantry.refuse_audit_change();

-- A partition named in a statement answers by its own policies and grants, not by those of its parent.
create function tenantry.secure_audit_partition(partition regclass) returns void
    language plpgsql
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
begin
    execute format('alter table %s enable row level security', partition);
    execute format('alter table %s force row level security', partition);
    execute format('create policy tenant on %s for all to tenantry_app using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org())', partition);
    execute format('create policy superadmin on %s for all to tenantry_superadmin using (true) with check (true)', partition);
    execute format('grant select, insert on %s to tenantry_app, tenantry_superadmin', partition);
    execute format('create trigger append_only_truncate before truncate on %s for each statement execute function tenantry.refuse_audit_change()', partition);
end
$$;
comment on function tenantry.secure_audit_partition(regclass) is 'Gives a new partition of audit_logs the policies, grants and guard of its parent.';
revoke execute on function tenantry.secure_audit_partition(regclass) from public;

-- Runs with the rights of the owner, because a partition is made by whoever owns the table.
create function tenantry.ensure_audit_partitions(from_month date, months int) returns int
    language plpgsql security definer
    set search_path = pg_catalog, tenantry, pg_temp
    set timezone = 'UTC'
    as $$
declare
    first_day date;
    name text;
    made int := 0;
begin
    if months not between 0 and 120 then
        raise exception 'months must be 0 to 120, not %', months using errcode = 'invalid_parameter_value';
    end if;
    -- One maker at a time; released with the transaction.
    perform pg_advisory_xact_lock(hashtext('tenantry.audit_partitions'));
    for i in 0 .. months - 1 loop
        first_day := (date_trunc('month', from_month::timestamp) + make_interval(months => i))::date;
        name := 'audit_logs_' || to_char(first_day, 'YYYY_MM');
        continue when to_regclass(format('tenantry.%I', name)) is not null;
        begin
            execute format('create table tenantry.%I partition of tenantry.audit_logs for values from (%L) to (%L)',
                           name, first_day::timestamptz, (first_day + interval '1 month')::timestamptz);
            perform tenantry.secure_audit_partition(format('tenantry.%I', name)::regclass);
            execute format('comment on table tenantry.%I is %L', name, 'Audit log of ' || to_char(first_day, 'YYYY-MM') || ', UTC.');
            made := made + 1;
        exception when check_violation then
            raise notice 'audit_logs_default already holds rows of %: they stay there', to_char(first_day, 'YYYY-MM');
        end;
    end loop;
    return made;
end
$$;
comment on function tenantry.ensure_audit_partitions(date, int) is
    'Makes the missing monthly partitions of audit_logs, beginning with the month of from_month (UTC); answers how many. A month whose rows are already in the default partition is skipped with a notice.';
revoke execute on function tenantry.ensure_audit_partitions(date, int) from public;
grant execute on function tenantry.ensure_audit_partitions(date, int) to tenantry_superadmin;

create table tenantry.audit_logs_default partition of tenantry.audit_logs default;
comment on table tenantry.audit_logs_default is 'Audit log of months without a partition of their own, so that nothing is ever lost. Normally empty.';
select tenantry.secure_audit_partition('tenantry.audit_logs_default');
select tenantry.ensure_audit_partitions((date_trunc('month', now() at time zone 'UTC') - interval '1 month')::date, 14);

comment on table tenantry.audit_logs is 'Who did what, append only, in monthly partitions (UTC). The actor is a user, an API key, or neither: the system.';
comment on column tenantry.audit_logs.api_key_id is 'Set: done by a program with this key.';
comment on column tenantry.audit_logs.impersonator is 'Who really acted, as the token''s `act.sub` names them, when somebody stood in for the user; null: the user themselves.';
comment on column tenantry.audit_logs.action is 'What was done, e.g. ticket.update.';
comment on column tenantry.audit_logs.resource_type is 'GraphQL type of the row it was done to.';
comment on column tenantry.audit_logs.resource_id is 'Id of that row; null: none. Not a foreign key: the log outlives its subject.';
comment on column tenantry.audit_logs.metadata is 'JSON object: the fields changed, with old and new values.';
comment on column tenantry.audit_logs.ip_address is 'Address of the client as seen by the server.';
comment on column tenantry.audit_logs.request_id is 'Request id of the log lines.';

-- The chain: each row of the log, in the order in which it was sealed, with a hash over it and the hash before. Rows are sealed by a
-- job and before every export, not by the statement that writes them: that would make the changes of an organization wait for
-- each other.
create table tenantry.audit_seals (
    organization_id  uuid not null references tenantry.organizations (id),
    position         bigint not null check (position > 0),
    audit_log_id     uuid not null,
    audit_created_at timestamptz not null,
    hash             bytea not null check (octet_length(hash) = 32),
    primary key (organization_id, position),
    unique (organization_id, audit_log_id)
);

alter table tenantry.audit_seals enable row level security;
alter table tenantry.audit_seals force row level security;
create policy tenant on tenantry.audit_seals for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.audit_seals for all to tenantry_superadmin using (true) with check (true);
grant select on tenantry.audit_seals to tenantry_app;
grant select, insert on tenantry.audit_seals to tenantry_superadmin;
create trigger append_only before update or delete on tenantry.audit_seals for each row execute function tenantry.refuse_audit_change();
create trigger append_only_truncate before truncate on tenantry.audit_seals for each statement execute function tenantry.refuse_audit_change();

comment on table tenantry.audit_seals is 'The hash chain over the audit log of each organization; it stays when months of the log are dropped.';
comment on column tenantry.audit_seals.position is 'Place in the chain, from 1, without gaps.';
comment on column tenantry.audit_seals.hash is 'SHA-256 of the hash before (32 zero bytes at first) and the row as canonical JSON: see src/audit/chain.rs.';

create table tenantry.audit_unsealed (
    organization_id uuid not null references tenantry.organizations (id),
    audit_log_id    uuid not null,
    created_at      timestamptz not null,
    primary key (organization_id, created_at, audit_log_id)
);

alter table tenantry.audit_unsealed enable row level security;
alter table tenantry.audit_unsealed force row level security;
create policy tenant on tenantry.audit_unsealed for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.audit_unsealed for all to tenantry_superadmin using (true) with check (true);
grant select on tenantry.audit_unsealed to tenantry_app;
grant select, insert, delete, update on tenantry.audit_unsealed to tenantry_superadmin;

comment on table tenantry.audit_unsealed is 'Rows of the log that are not in the chain yet.';

create function tenantry.queue_for_sealing() returns trigger
    language plpgsql security definer
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
begin
    insert into tenantry.audit_unsealed (organization_id, audit_log_id, created_at) values (new.organization_id, new.id, new.created_at);
    return null;
end
$$;
comment on function tenantry.queue_for_sealing() is 'Trigger: a new row of the audit log is to be sealed.';
revoke execute on function tenantry.queue_for_sealing() from public;
grant create on schema tenantry to tenantry_superadmin;
alter function tenantry.queue_for_sealing() owner to tenantry_superadmin;
revoke create on schema tenantry from tenantry_superadmin;
create trigger queue_for_sealing after insert on tenantry.audit_logs for each row execute function tenantry.queue_for_sealing();

-- How far back the log of an organization reaches, where retention has ended something. The seals stay.
create table tenantry.audit_horizons (
    organization_id uuid primary key references tenantry.organizations (id),
    kept_from       bigint not null check (kept_from > 0)
);

alter table tenantry.audit_horizons enable row level security;
alter table tenantry.audit_horizons force row level security;
create policy tenant on tenantry.audit_horizons for select to tenantry_app using (organization_id = tenantry.current_org());
create policy superadmin on tenantry.audit_horizons for all to tenantry_superadmin using (true) with check (true);
grant select on tenantry.audit_horizons to tenantry_app;
grant select, insert on tenantry.audit_horizons to tenantry_superadmin;

comment on table tenantry.audit_horizons is 'The first place of the chain whose row is kept; written by expire_audit_log only.';

-- Runs with the rights of the owner: nobody else removes rows of the log. What it did is in the log.
create function tenantry.expire_audit_log(p_organization_id uuid, p_before timestamptz, p_limit int) returns bigint
    language plpgsql security definer
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
declare
    known bigint;
    kept bigint;
    removed bigint;
begin
    if p_before > now() - interval '30 days' then
        raise exception 'rows of the last 30 days are kept, whatever the retention' using errcode = 'invalid_parameter_value';
    end if;
    select h.kept_from into known from tenantry.audit_horizons h where h.organization_id = p_organization_id;
    -- By place and not by time: a row that was written late may stand behind younger ones, and the chain is to have no holes.
    select s.position into kept from tenantry.audit_seals s
     where s.organization_id = p_organization_id and s.position >= coalesce(known, 1) and s.audit_created_at >= p_before
     order by s.position limit 1;
    if kept is null then
        select max(s.position) + 1 into kept from tenantry.audit_seals s where s.organization_id = p_organization_id;
    end if;
    if kept is null or kept <= 1 then
        return 0;
    end if;
    insert into tenantry.audit_horizons as h (organization_id, kept_from) values (p_organization_id, kept)
    on conflict (organization_id) do update set kept_from = excluded.kept_from where h.kept_from < excluded.kept_from;
    delete from tenantry.audit_logs a
     using (select l.created_at, l.id from tenantry.audit_logs l
              join tenantry.audit_seals s on s.organization_id = l.organization_id and s.audit_log_id = l.id and s.position < kept
             where l.organization_id = p_organization_id and l.created_at < p_before order by l.created_at, l.id limit p_limit) as old
     where a.organization_id = p_organization_id and a.created_at = old.created_at and a.id = old.id;
    get diagnostics removed = row_count;
    if removed > 0 then
        insert into tenantry.audit_logs (organization_id, id, action, resource_type, resource_id, metadata)
        values (p_organization_id, gen_random_uuid(), 'audit.expire', 'Organization', p_organization_id,
                jsonb_build_object('rows', removed, 'keptFrom', kept));
    end if;
    return removed;
end
$$;
comment on function tenantry.expire_audit_log(uuid, timestamptz, int) is
    'Removes some rows of an organization''s log that were written before this time, the oldest first; answers how many. Never of the last 30 days. The chain stays whole.';
revoke execute on function tenantry.expire_audit_log(uuid, timestamptz, int) from public;
grant execute on function tenantry.expire_audit_log(uuid, timestamptz, int) to tenantry_superadmin;

create table tenantry.jobs (
    name             text primary key check (char_length(name) between 1 and 100),
    last_started_at  timestamptz,
    last_finished_at timestamptz,
    last_done        bigint not null default 0,
    last_error       text check (char_length(last_error) <= 2000),
    runs             bigint not null default 0
);

alter table tenantry.jobs enable row level security;
alter table tenantry.jobs force row level security;
create policy superadmin on tenantry.jobs for all to tenantry_superadmin using (true) with check (true);
grant all on tenantry.jobs to tenantry_superadmin;

comment on table tenantry.jobs is 'What the workers do by the clock. The row is locked while its job runs, so that one worker of all does it.';
comment on column tenantry.jobs.last_done is 'How many rows the last run made, sealed or removed.';

-- What superadmins did through the API's platform fields, which look across tenants: audit_logs has no place for it,
-- since each of its rows belongs to one tenant.
create table tenantry.platform_audit_logs (
    id          uuid primary key,
    user_id     uuid references tenantry.users (id),
    impersonator text check (char_length(impersonator) between 1 and 255),
    action      text not null check (char_length(action) between 1 and 200),
    metadata    jsonb not null default '{}' check (jsonb_typeof(metadata) = 'object'),
    ip_address  inet,
    request_id  text check (char_length(request_id) <= 200),
    created_at  timestamptz not null default now()
);

-- No tenant sees it: the application role has neither policy nor grant.
alter table tenantry.platform_audit_logs enable row level security;
alter table tenantry.platform_audit_logs force row level security;
create policy superadmin on tenantry.platform_audit_logs for all to tenantry_superadmin using (true) with check (true);
grant select, insert on tenantry.platform_audit_logs to tenantry_superadmin;

create index platform_audit_logs_created_at_idx on tenantry.platform_audit_logs (created_at, id);
create index platform_audit_logs_user_id_idx on tenantry.platform_audit_logs (user_id, created_at);
create trigger append_only before update or delete on tenantry.platform_audit_logs for each row execute function tenantry.refuse_audit_change();
create trigger append_only_truncate before truncate on tenantry.platform_audit_logs for each statement execute function tenantry.refuse_audit_change();

comment on table tenantry.platform_audit_logs is 'What superadmins did across tenants through the API, and commands about people, append only.';
comment on column tenantry.platform_audit_logs.user_id is 'The superadmin; null: a command.';
comment on column tenantry.platform_audit_logs.impersonator is 'Who really acted, as the token''s `act.sub` names them, when somebody stood in for the user; null: the user themselves.';
comment on column tenantry.platform_audit_logs.action is 'What was done, e.g. webhook_events.list.';
comment on column tenantry.platform_audit_logs.metadata is 'JSON object: ids and counts, never contents.';
