-- What subscribers are told, kept for an hour: whoever was away for less misses nothing.

create table tenantry.event_log (
    organization_id uuid not null,
    transaction     xid8 not null default pg_current_xact_id(),
    id              bigint not null generated always as identity,
    topic           text not null check (char_length(topic) between 1 and 100),
    row_id          uuid not null,
    primary key (organization_id, transaction, id)
);

alter table tenantry.event_log enable row level security;
alter table tenantry.event_log force row level security;
create policy tenant on tenantry.event_log for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.event_log for all to tenantry_superadmin using (true) with check (true);
grant insert, select on tenantry.event_log to tenantry_app;
grant all on tenantry.event_log to tenantry_superadmin;
-- Rows come and go all the time, and each is dead after an hour.
alter table tenantry.event_log set (autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);

comment on table tenantry.event_log is 'Append only: what subscribers are told. It names rows and does not hold them. A job removes what is older than an hour.';
comment on column tenantry.event_log.organization_id is 'No foreign key: its check would cost each change more than the row itself.';
comment on column tenantry.event_log.transaction is 'The change. Who asks for the transactions that had not ended at the last look, and for all newer ones, misses none and gets none twice, in whatever order they commit.';
comment on column tenantry.event_log.id is 'The order in which the changes of one row are told: it is drawn while the row is locked.';
comment on column tenantry.event_log.topic is 'GraphQL type of the row that changed; Access: somebody may have lost access.';
comment on column tenantry.event_log.row_id is 'Id of that row; with the topic Access that of a user or an API key, all zeros: of everybody.';

create table tenantry.event_marks (
    at     timestamptz primary key,
    oldest xid8 not null
);

alter table tenantry.event_marks enable row level security;
alter table tenantry.event_marks force row level security;
create policy superadmin on tenantry.event_marks for all to tenantry_superadmin using (true) with check (true);
grant all on tenantry.event_marks to tenantry_superadmin;

comment on table tenantry.event_marks is 'Which transactions had ended when: rows of event_log that are older than the first of these may be gone.';
comment on column tenantry.event_marks.oldest is 'All older transactions had ended.';

-- As src/events tells.
create or replace function tenantry.tell_access(p_organization_id uuid, p_user_id uuid) returns void
    language plpgsql volatile
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
begin
    insert into tenantry.event_log (organization_id, topic, row_id) values (p_organization_id, 'Access', p_user_id);
    if not pg_try_advisory_xact_lock(1953395833, get_byte(uuid_send(p_organization_id), 15)) then
        perform pg_notify('tenantry_events', p_organization_id::text);
    end if;
end
$$;
