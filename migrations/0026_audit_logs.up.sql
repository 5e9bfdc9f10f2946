create table audit_logs (
    id              uuid not null,
    organization_id uuid not null references organizations (id),
    user_id         uuid references users (id),
    api_key_id      uuid,
    action          text not null check (char_length(action) between 1 and 200),
    resource_type   text not null check (char_length(resource_type) between 1 and 100),
    resource_id     uuid,
    metadata        jsonb not null default '{}' check (jsonb_typeof(metadata) = 'object'),
    ip_address      inet,
    request_id      text check (char_length(request_id) <= 200),
    created_at      timestamptz not null default now(),
    primary key (organization_id, created_at, id),
    foreign key (organization_id, api_key_id) references api_keys (organization_id, id),
    check (num_nonnulls(user_id, api_key_id) <= 1)
) partition by range (created_at);

alter table audit_logs enable row level security;
alter table audit_logs force row level security;
create policy tenant on audit_logs for all to tenantry_app
    using (organization_id = app.current_org()) with check (organization_id = app.current_org());
create policy superadmin on audit_logs for all to tenantry_superadmin using (true) with check (true);
grant select, insert on audit_logs to tenantry_app, tenantry_superadmin;

create index audit_logs_user_id_idx on audit_logs (organization_id, user_id, created_at, id);
create index audit_logs_api_key_id_idx on audit_logs (organization_id, api_key_id, created_at, id);
create index audit_logs_resource_idx on audit_logs (organization_id, resource_type, resource_id, created_at, id);
create index audit_logs_action_idx on audit_logs (organization_id, action, created_at, id);

create function app.refuse_audit_change() returns trigger
    language plpgsql
    as $$
begin
    raise exception 'audit_logs is append only: % refused', lower(tg_op)
        using errcode = 'insufficient_privilege',
              hint = 'Old months are dropped as whole partitions.';
end
$$;
comment on function app.refuse_audit_change() is 'Trigger: refuses update, delete and truncate, for every role.';
revoke execute on function app.refuse_audit_change() from public;

-- PostgreSQL copies row triggers to the partitions, statement triggers not: see app.secure_audit_partition.
create trigger append_only before update or delete on audit_logs for each row execute function app.refuse_audit_change();
create trigger append_only_truncate before truncate on audit_logs for each statement execute function app.refuse_audit_change();

-- A partition named in a statement answers by its own policies and grants, not by those of its parent.
create function app.secure_audit_partition(partition regclass) returns void
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
    as $$
begin
    execute format('alter table %s enable row level security', partition);
    execute format('alter table %s force row level security', partition);
    execute format('create policy tenant on %s for all to tenantry_app using (organization_id = app.current_org()) with check (organization_id = app.current_org())', partition);
    execute format('create policy superadmin on %s for all to tenantry_superadmin using (true) with check (true)', partition);
    execute format('grant select, insert on %s to tenantry_app, tenantry_superadmin', partition);
    execute format('create trigger append_only_truncate before truncate on %s for each statement execute function app.refuse_audit_change()', partition);
end
$$;
comment on function app.secure_audit_partition(regclass) is 'Gives a new partition of audit_logs the policies, grants and guard of its parent.';
revoke execute on function app.secure_audit_partition(regclass) from public;

-- Runs with the rights of the owner, because a partition is made by whoever owns the table.
create function app.ensure_audit_partitions(from_month date, months int) returns int
    language plpgsql security definer
    set search_path = pg_catalog, public, pg_temp
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
        continue when to_regclass(format('public.%I', name)) is not null;
        begin
            execute format('create table public.%I partition of public.audit_logs for values from (%L) to (%L)',
                           name, first_day::timestamptz, (first_day + interval '1 month')::timestamptz);
            perform app.secure_audit_partition(format('public.%I', name)::regclass);
            execute format('comment on table public.%I is %L', name, 'Audit log of ' || to_char(first_day, 'YYYY-MM') || ', UTC.');
            made := made + 1;
        exception when check_violation then
            raise notice 'audit_logs_default already holds rows of %: they stay there', to_char(first_day, 'YYYY-MM');
        end;
    end loop;
    return made;
end
$$;
comment on function app.ensure_audit_partitions(date, int) is
    'Makes the missing monthly partitions of audit_logs, beginning with the month of from_month (UTC); answers how many. A month whose rows are already in the default partition is skipped with a notice.';
revoke execute on function app.ensure_audit_partitions(date, int) from public;
grant execute on function app.ensure_audit_partitions(date, int) to tenantry_superadmin;

create table audit_logs_default partition of audit_logs default;
comment on table audit_logs_default is 'Audit log of months without a partition of their own, so that nothing is ever lost. Normally empty.';
select app.secure_audit_partition('audit_logs_default');
select app.ensure_audit_partitions((date_trunc('month', now() at time zone 'UTC') - interval '1 month')::date, 14);

comment on table audit_logs is 'Who did what, append only, in monthly partitions (UTC). The actor is a user, an API key, or neither: the system.';
comment on column audit_logs.api_key_id is 'Set: done by a program with this key.';
comment on column audit_logs.action is 'What was done, e.g. ticket.update.';
comment on column audit_logs.resource_type is 'GraphQL type of the row it was done to.';
comment on column audit_logs.resource_id is 'Id of that row; null: none. Not a foreign key: the log outlives its subject.';
comment on column audit_logs.metadata is 'JSON object: the fields changed, with old and new values.';
comment on column audit_logs.ip_address is 'Address of the client as seen by the server.';
comment on column audit_logs.request_id is 'Request id of the log lines.';
