-- How every instance hears of what changes the evaluation of feature flags, and of who may ask for one.

create table tenantry.flag_changes (
    id           bigint generated always as identity primary key,
    transaction  xid8 not null default pg_current_xact_id(),
    kind         text not null check (kind in ('DEFINITIONS', 'ORGANIZATION', 'STANDING', 'ACCESS')),
    organization uuid,
    actor        uuid,
    session      text,
    created_at   timestamptz not null default clock_timestamp()
);
create index flag_changes_transaction_idx on tenantry.flag_changes (transaction);
create index flag_changes_created_at_idx on tenantry.flag_changes (created_at);
alter table tenantry.flag_changes enable row level security;
alter table tenantry.flag_changes force row level security;
create policy superadmin on tenantry.flag_changes for all to tenantry_superadmin using (true) with check (true);
grant all on tenantry.flag_changes to tenantry_superadmin;

comment on table tenantry.flag_changes is 'Append only: what has changed for the evaluation of feature flags. An instance that missed a notification finds it here; a job removes rows after an hour.';
comment on column tenantry.flag_changes.transaction is 'Who asks for every transaction from the oldest one that was running at the last look misses none, in whatever order they commit. A sequence would not do: its numbers are given before the commit.';
comment on column tenantry.flag_changes.kind is 'DEFINITIONS; ORGANIZATION: its plan, an override or a client key; STANDING: suspended, deleted or back; ACCESS: whoever is named may have lost it.';
comment on column tenantry.flag_changes.organization is 'Null: not of one. No foreign key: the row outlives its organization.';
comment on column tenantry.flag_changes.actor is 'The user or the API key; null: everybody.';
comment on column tenantry.flag_changes.session is 'The session of the identity provider that has ended.';

create table tenantry.flag_state (
    only_row      boolean primary key default true check (only_row),
    purged        xid8 not null default '0',
    stream_secret bytea not null check (octet_length(stream_secret) = 32)
);
alter table tenantry.flag_state enable row level security;
alter table tenantry.flag_state force row level security;
create policy superadmin on tenantry.flag_state for all to tenantry_superadmin using (true) with check (true);
grant all on tenantry.flag_state to tenantry_superadmin;

comment on table tenantry.flag_state is 'One row: what all instances share for feature flags.';
comment on column tenantry.flag_state.purged is 'The newest transaction whose rows of flag_changes were removed: whoever has not looked since loads everything anew.';
comment on column tenantry.flag_state.stream_secret is 'Signs the addresses of event streams. They open nothing by themselves: the credential behind one is looked up again.';

set local role tenantry_superadmin;
-- 244 random bits: two UUIDs of version 4.
insert into tenantry.flag_state (stream_secret)
values (decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'));
reset role;

-- The arguments: the kind, and the columns of the organization, of the actor and of the session, where the table has them.
create function tenantry.note_flag_change() returns trigger
    language plpgsql security definer
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
declare
    changed constant jsonb := case when tg_op = 'DELETE' then to_jsonb(old) else to_jsonb(new) end;
begin
    insert into tenantry.flag_changes (kind, organization, actor, session)
    values (tg_argv[0], (changed ->> tg_argv[1])::uuid, (changed ->> tg_argv[2])::uuid, changed ->> tg_argv[3]);
    return null;
end
$$;
comment on function tenantry.note_flag_change() is 'Trigger: writes down that something changed for feature flags.';

create function tenantry.tell_flag_change() returns trigger
    language plpgsql
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
begin
    perform pg_notify('tenantry_flags', coalesce(new.organization::text, ''));
    return null;
end
$$;
comment on function tenantry.tell_flag_change() is 'Trigger: has every instance look at flag_changes when the transaction commits.';
revoke execute on function tenantry.note_flag_change(), tenantry.tell_flag_change() from public;
grant create on schema tenantry to tenantry_superadmin;
alter function tenantry.note_flag_change() owner to tenantry_superadmin;
revoke create on schema tenantry from tenantry_superadmin;

create trigger tell_flag_change after insert on tenantry.flag_changes for each row execute function tenantry.tell_flag_change();

-- What follows always notifies, unlike src/events.rs: these rows change rarely. What changes often and concerns no evaluation
-- (last_used_at, the period of a subscription, a profile) is not among the conditions.
create trigger note_flag_change after insert or delete on tenantry.feature_flag_definitions
    for each row execute function tenantry.note_flag_change('DEFINITIONS');
create trigger note_flag_update after update on tenantry.feature_flag_definitions for each row
    when ((new.key, new.kind, new.value_type, new.variants, new.off_variant, new.default_enabled, new.minimum_plan, new.rollout_percentage,
           new.rollout_unit, new.starts_at, new.ends_at)
          is distinct from
          (old.key, old.kind, old.value_type, old.variants, old.off_variant, old.default_enabled, old.minimum_plan, old.rollout_percentage,
           old.rollout_unit, old.starts_at, old.ends_at))
    execute function tenantry.note_flag_change('DEFINITIONS');
create trigger note_flag_change after insert or delete on tenantry.organization_feature_flags
    for each row execute function tenantry.note_flag_change('ORGANIZATION', 'organization_id');
create trigger note_flag_update after update on tenantry.organization_feature_flags for each row
    when ((new.organization_id, new.flag_key, new.source, new.enabled, new.variant, new.exceeds_plan, new.expires_at)
          is distinct from (old.organization_id, old.flag_key, old.source, old.enabled, old.variant, old.exceeds_plan, old.expires_at))
    execute function tenantry.note_flag_change('ORGANIZATION', 'organization_id');
create trigger note_flag_insert after insert on tenantry.subscriptions for each row when (new.plan <> 'FREE')
    execute function tenantry.note_flag_change('ORGANIZATION', 'organization_id');
create trigger note_flag_delete after delete on tenantry.subscriptions for each row when (old.plan <> 'FREE')
    execute function tenantry.note_flag_change('ORGANIZATION', 'organization_id');
create trigger note_flag_update after update of plan on tenantry.subscriptions for each row when (new.plan <> old.plan)
    execute function tenantry.note_flag_change('ORGANIZATION', 'organization_id');
create trigger note_flag_update after update of status, suspended_at, deleted_at on tenantry.organizations for each row
    when ((new.status, new.suspended_at, new.deleted_at) is distinct from (old.status, old.suspended_at, old.deleted_at))
    execute function tenantry.note_flag_change('STANDING', 'id');
create trigger note_flag_delete after delete on tenantry.organizations
    for each row execute function tenantry.note_flag_change('STANDING', 'id');
create trigger note_flag_update after update of deleted_at on tenantry.organization_members for each row
    when (new.deleted_at is not null and old.deleted_at is null)
    execute function tenantry.note_flag_change('ACCESS', 'organization_id', 'user_id');
create trigger note_flag_delete after delete on tenantry.organization_members
    for each row execute function tenantry.note_flag_change('ACCESS', 'organization_id', 'user_id');
create trigger note_flag_update after update of ended_at, expires_at on tenantry.support_accesses for each row
    when ((new.ended_at, new.expires_at) is distinct from (old.ended_at, old.expires_at))
    execute function tenantry.note_flag_change('ACCESS', 'organization_id', 'user_id');
create trigger note_flag_delete after delete on tenantry.support_accesses
    for each row execute function tenantry.note_flag_change('ACCESS', 'organization_id', 'user_id');
create trigger note_flag_update after update of scopes, allowed_networks, expires_at, revoked_at on tenantry.api_keys for each row
    when ((new.scopes, new.allowed_networks, new.expires_at, new.revoked_at)
          is distinct from (old.scopes, old.allowed_networks, old.expires_at, old.revoked_at))
    execute function tenantry.note_flag_change('ACCESS', 'organization_id', 'id');
create trigger note_flag_delete after delete on tenantry.api_keys
    for each row execute function tenantry.note_flag_change('ACCESS', 'organization_id', 'id');
create trigger note_flag_update after update of clerk_id, is_superadmin, blocked_until, deleted_at on tenantry.users for each row
    when ((new.clerk_id, new.is_superadmin, new.blocked_until, new.deleted_at)
          is distinct from (old.clerk_id, old.is_superadmin, old.blocked_until, old.deleted_at))
    execute function tenantry.note_flag_change('ACCESS', '', 'id');
create trigger note_flag_delete after delete on tenantry.users
    for each row execute function tenantry.note_flag_change('ACCESS', '', 'id');
create trigger note_flag_insert after insert on tenantry.ended_sessions
    for each row execute function tenantry.note_flag_change('ACCESS', '', '', 'session_id');
create trigger note_flag_change after insert or delete on tenantry.client_keys
    for each row execute function tenantry.note_flag_change('ORGANIZATION', 'organization_id');
create trigger note_flag_update after update of public_key, expires_at, revoked_at on tenantry.client_keys for each row
    when ((new.public_key, new.expires_at, new.revoked_at) is distinct from (old.public_key, old.expires_at, old.revoked_at))
    execute function tenantry.note_flag_change('ORGANIZATION', 'organization_id');
