-- The inbox of webhooks, and what the providers said of their objects.

create type tenantry.webhook_source as enum ('CLERK', 'STRIPE');
comment on type tenantry.webhook_source is 'Sender of a webhook.';
create type tenantry.webhook_status as enum ('RECEIVED', 'APPLIED', 'IGNORED', 'FAILED', 'DEAD');
comment on type tenantry.webhook_status is 'FAILED is retried; DEAD is not.';

-- A body is text as a rule; what is not is shown byte by byte, not refused.
create function tenantry.body_text(p_body bytea) returns text
    language plpgsql immutable
    set search_path = pg_catalog, pg_temp
    as $$
begin
    return convert_from(p_body, 'UTF8');
exception when character_not_in_repertoire or untranslatable_character then
    return encode(p_body, 'escape');
end
$$;
comment on function tenantry.body_text(bytea) is 'The body of a delivery as text, for exports and searching.';
revoke execute on function tenantry.body_text(bytea) from public;
grant execute on function tenantry.body_text(bytea) to tenantry_superadmin;

create table tenantry.webhook_events (
    id               uuid primary key,
    source           tenantry.webhook_source not null,
    event_id         text not null check (char_length(event_id) between 1 and 255),
    event_type       text not null check (char_length(event_type) between 1 and 255),
    object_id        text check (char_length(object_id) <= 255),
    raw_body         bytea not null check (octet_length(raw_body) <= 1048576),
    status           tenantry.webhook_status not null default 'RECEIVED',
    attempts         integer not null default 0 check (attempts >= 0),
    last_error       text,
    cause            text,
    finding          text,
    next_attempt_at  timestamptz not null default now(),
    organization_id  uuid references tenantry.organizations (id),
    event_created_at timestamptz,
    received_at      timestamptz not null default now(),
    processed_at     timestamptz,
    failed_at        timestamptz,
    unique (source, event_id)
);

alter table tenantry.webhook_events enable row level security;
alter table tenantry.webhook_events force row level security;
create policy tenant on tenantry.webhook_events for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.webhook_events for all to tenantry_superadmin using (true) with check (true);
-- Everything but the raw body, which holds whatever the sender knows, and the cause, which is for operators.
grant select (id, source, event_id, event_type, object_id, status, attempts, last_error, finding, next_attempt_at, organization_id,
              event_created_at, received_at, processed_at, failed_at),
      -- A tenant's administrators may have their events worked on again, which changes nothing else of them.
      update (status, attempts, last_error, cause, finding, next_attempt_at, processed_at, failed_at) on tenantry.webhook_events to tenantry_app;
grant all on tenantry.webhook_events to tenantry_superadmin;

create index webhook_events_pending_idx on tenantry.webhook_events (next_attempt_at, id) where status in ('RECEIVED', 'FAILED');
create index webhook_events_organization_id_idx on tenantry.webhook_events (organization_id, received_at desc, id);
create index webhook_events_received_at_idx on tenantry.webhook_events (received_at, id);
create index webhook_events_finding_idx on tenantry.webhook_events (received_at, id) where finding is not null;
create index webhook_events_object_id_idx on tenantry.webhook_events (source, object_id, event_created_at);

comment on table tenantry.webhook_events is 'Inbox: every webhook whose signature was good, stored once and then applied by the worker.';
comment on column tenantry.webhook_events.event_id is 'Id given by the sender (Clerk: svix-id); with source it makes a repeated delivery a no-op.';
comment on column tenantry.webhook_events.object_id is 'Id of the object at the sender, e.g. sub_… or user_….';
comment on column tenantry.webhook_events.raw_body is 'The bytes as they came, which is what was signed; at most 1 MiB. Not readable for the application role.';
comment on column tenantry.webhook_events.attempts is 'Attempts to apply it so far.';
comment on column tenantry.webhook_events.last_error is 'Why the last try failed; of an IGNORED event why there was nothing to do.';
comment on column tenantry.webhook_events.finding is 'What could not be made of it so far: an organization that nothing names, a price that buys no known plan, a list that came in part. Goes when later events or settings answer it.';
comment on column tenantry.webhook_events.cause is 'What failed, in full; last_error says of it what tenants may know. Not readable for the application role.';
comment on column tenantry.webhook_events.next_attempt_at is 'Not before this; moves out with every failure.';
comment on column tenantry.webhook_events.organization_id is 'Null until known: then only superadmins see the event.';
comment on column tenantry.webhook_events.event_created_at is 'When the sender made it (Clerk: envelope timestamp; Stripe: created).';
comment on column tenantry.webhook_events.processed_at is 'When it was APPLIED or IGNORED.';
comment on column tenantry.webhook_events.failed_at is 'When it last FAILED, or became DEAD.';

-- What the providers said of their objects, merged so that the order of the events does not matter. The rows of users,
-- organizations, members, invitations and subscriptions are derived from here.
create table tenantry.sync_objects (
    source     tenantry.webhook_source not null,
    kind       text not null check (kind in ('user', 'organization', 'membership', 'invitation', 'customer', 'subscription', 'checkout', 'product', 'price', 'entitlements', 'invoice', 'attribution', 'payment', 'refund')),
    object_id  text not null check (char_length(object_id) between 1 and 255),
    fields     jsonb not null default '{}' check (jsonb_typeof(fields) = 'object'),
    refs       text[] not null default '{}',
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    deleted_at timestamptz,
    primary key (source, kind, object_id)
);

alter table tenantry.sync_objects enable row level security;
alter table tenantry.sync_objects force row level security;
create policy superadmin on tenantry.sync_objects for all to tenantry_superadmin using (true) with check (true);
grant all on tenantry.sync_objects to tenantry_superadmin;

create index sync_objects_refs_idx on tenantry.sync_objects using gin (refs);
create trigger touch_updated_at before update on tenantry.sync_objects for each row execute function tenantry.touch_updated_at();

comment on table tenantry.sync_objects is 'What Clerk and Stripe said of their objects: every field with the stamp of the event it is from. Global and for the sync only: an object can be known before its organization is.';
comment on column tenantry.sync_objects.object_id is 'Id at the source; for entitlements the id of the customer.';
comment on column tenantry.sync_objects.fields is 'Field → {"at": [authority, version, rank, event id], "is": value}. The greater stamp wins, field by field.';
comment on column tenantry.sync_objects.refs is 'Ids of the objects this one names, and what else it is looked up by: the way from a customer to its subscriptions.';
comment on column tenantry.sync_objects.deleted_at is 'Set: deleted at the source, for good, whatever arrives later.';

-- Why a token opens nothing: asked after enter_tenant or viewer found no row.
create function tenantry.account_standing(p_sub text, p_session text) returns text
    language sql stable security definer
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
        select case
                 when u.id is null and exists (select from tenantry.sync_objects o
                                                where o.source = 'CLERK' and o.kind = 'user' and o.object_id = p_sub and o.deleted_at is not null) then 'GONE'
                 when u.id is null then 'UNKNOWN'
                 when u.deleted_at is not null then 'GONE'
                 when u.blocked_until > now() then 'BLOCKED'
                 when exists (select from tenantry.ended_sessions e where e.session_id = p_session) then 'ENDED'
                 else 'GOOD'
               end
          from (select) one left join tenantry.users u on u.clerk_id = p_sub
    $$;
comment on function tenantry.account_standing(text, text) is
    'Of the bearer of a token: GOOD, UNKNOWN (not here yet), GONE (deleted), BLOCKED (banned or locked) or ENDED (the session).';

-- The fifth door: whoever brings a token before anybody told of them, where the setting NEW_USERS says that such tokens make
-- users. A row that the sync wrote is the sync's: a token does not change it.
create function tenantry.meet_user(p_sub text, p_session text, p_id uuid, p_email text, p_name text, p_avatar_url text,
                                   p_workspace_id uuid, p_member_id uuid, p_workspace_name text, p_workspace_slug text, p_now timestamptz)
    returns table (outcome text, user_id uuid, organization_id uuid, role tenantry.member_role, is_superadmin boolean, slug text)
    language plpgsql volatile security definer rows 1
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
declare
    known record;
    made boolean;
    wanted text;
    ignored text;
begin
    if exists (select from tenantry.ended_sessions e where e.session_id = p_session)
       or exists (select from tenantry.sync_objects o
                   where o.source = 'CLERK' and o.kind = 'user' and o.object_id = p_sub and o.deleted_at is not null) then
        outcome := 'REFUSED'; return next; return;
    end if;
    if p_email is not null and not exists (select from tenantry.users u where u.clerk_id = p_sub) then
        -- Somebody of an adopted database, who had no account so far, has one now: as the sync does it, when it is clear who.
        update tenantry.users u set clerk_id = p_sub
         where u.clerk_id like 'legacy:%'
           and u.id = (select max(l.id::text)::uuid from tenantry.users l
                        where lower(l.email) = lower(p_email) and l.clerk_id like 'legacy:%' and l.deleted_at is null and not l.is_superadmin
                       having count(*) = 1);
    end if;
    insert into tenantry.users (id, clerk_id, email, verified_email, name, avatar_url, created_at)
    values (p_id, p_sub, p_email, p_email,
            coalesce(p_name, tenantry.neutral_name(p_sub)), p_avatar_url, p_now)
    on conflict (clerk_id) do nothing;
    made := found;
    if not made then
        update tenantry.users u
           set email = coalesce(p_email, u.email), verified_email = coalesce(p_email, u.verified_email), name = coalesce(p_name, u.name), avatar_url = coalesce(p_avatar_url, u.avatar_url)
         where u.clerk_id = p_sub and u.source_version = 0 and u.deleted_at is null
           and (u.email, u.verified_email, u.name, u.avatar_url)
               is distinct from (coalesce(p_email, u.email), coalesce(p_email, u.verified_email), coalesce(p_name, u.name), coalesce(p_avatar_url, u.avatar_url))
        returning u.id into known;
        if not found then
            outcome := 'KNOWN'; return next; return;
        end if;
        insert into tenantry.audit_logs (organization_id, id, user_id, action, resource_type, resource_id, created_at)
        select m.organization_id, gen_random_uuid(), known.id, 'user.update', 'User', known.id, p_now
          from tenantry.organization_members m where m.user_id = known.id and m.deleted_at is null;
        outcome := 'CHANGED'; return next; return;
    end if;
    if p_workspace_id is null then
        outcome := 'MADE'; return next; return;
    end if;
    wanted := tenantry.insert_organization(p_workspace_id, p_workspace_name, p_workspace_slug, true, p_now);
    if wanted is null then
        outcome := 'MADE'; return next; return;
    end if;
    insert into tenantry.organization_members (organization_id, id, user_id, role, created_at)
    values (p_workspace_id, p_member_id, p_id, 'OWNER', p_now);
    update tenantry.users u set current_organization_id = p_workspace_id where u.id = p_id;
    ignored := pg_catalog.set_config('app.current_org_id', p_workspace_id::text, true);
    ignored := pg_catalog.set_config('app.current_user_id', p_id::text, true);
    ignored := pg_catalog.set_config('app.is_superadmin', 'false', true);
    outcome := 'JOINED'; user_id := p_id; organization_id := p_workspace_id; role := 'OWNER'; is_superadmin := false; slug := wanted;
    return next;
end
$$;
comment on function tenantry.meet_user(text, text, uuid, text, text, text, uuid, uuid, text, text, timestamptz) is
    'Makes the user of a token, or gives a row that no sync wrote what the token says of them. JOINED: made, with a personal workspace that is open now; MADE: without one; CHANGED; KNOWN; REFUSED: deleted, or the session has ended.';
revoke execute on function tenantry.account_standing(text, text), tenantry.meet_user(text, text, uuid, text, text, text, uuid, uuid, text, text, timestamptz) from public;
grant execute on function tenantry.account_standing(text, text), tenantry.meet_user(text, text, uuid, text, text, text, uuid, uuid, text, text, timestamptz)
    to tenantry_app, tenantry_superadmin;
grant create on schema tenantry to tenantry_superadmin;
alter function tenantry.account_standing(text, text) owner to tenantry_superadmin;
alter function tenantry.meet_user(text, text, uuid, text, text, text, uuid, uuid, text, text, timestamptz) owner to tenantry_superadmin;
revoke create on schema tenantry from tenantry_superadmin;
