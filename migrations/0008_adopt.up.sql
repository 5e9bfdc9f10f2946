-- State of `tenantry adopt`: what it made, row by row, so that it resumes and rolls back. Only the owner sees it: no role
-- has a grant, hence no policies.
-- Nothing here refers to tables outside: a mapping is a record and must not stand in the way of a deletion.

create table tenantry.adoptions (
    name                 text primary key,
    plan                 jsonb not null,
    default_organization uuid,
    created_at           timestamptz not null default now(),
    finalized_at         timestamptz,
    cut_over_at          timestamptz
);
comment on table tenantry.adoptions is 'One adoption per plan.';
comment on column tenantry.adoptions.default_organization is 'The workspace of those who had none, under the policy `default`; null until it is made.';
comment on column tenantry.adoptions.cut_over_at is 'Since then the old application writes no more: no triggers, no policies for its logins.';

create table tenantry.adopt_organizations (
    adoption        text not null references tenantry.adoptions on delete cascade,
    legacy_id       text not null,
    organization_id uuid not null,
    ended           boolean not null default false,
    primary key (adoption, legacy_id)
);
create index adopt_organizations_organization_id_idx on tenantry.adopt_organizations (adoption, organization_id);
comment on table tenantry.adopt_organizations is 'Organizations of the legacy database and what they became.';
comment on column tenantry.adopt_organizations.ended is 'Closed because the legacy database closed it: opened again when that does.';

create table tenantry.adopt_users (
    adoption             text not null references tenantry.adoptions on delete cascade,
    legacy_id            text not null,
    user_id              uuid,
    organization_id      uuid,
    outcome              text not null check (outcome in ('processed', 'skipped', 'unresolved')),
    reason               text,
    user_created         boolean not null default false,
    current_before       uuid,
    current_set          boolean not null default false,
    ended                boolean not null default false,
    primary key (adoption, legacy_id),
    check ((organization_id is null) = (outcome = 'unresolved')),
    check ((reason is null) or (outcome = 'unresolved'))
);
create index adopt_users_user_id_idx on tenantry.adopt_users (adoption, user_id);
comment on table tenantry.adopt_users is 'Users of the legacy database, whom they became, and the organization of their rows.';
comment on column tenantry.adopt_users.outcome is 'processed: given an organization here; skipped: had one; unresolved: has none, see reason.';
comment on column tenantry.adopt_users.ended is 'Gone from the legacy database, and back when they come back there.';
comment on column tenantry.adopt_users.current_before is 'users.current_organization_id before, when current_set.';

create table tenantry.adopt_created (
    adoption        text not null references tenantry.adoptions on delete cascade,
    organization_id uuid not null,
    user_id         uuid,
    unique nulls not distinct (adoption, organization_id, user_id)
);
comment on table tenantry.adopt_created is 'Organizations (user_id null) and memberships that the adoption made: what a rollback takes back.';

create table tenantry.adopt_batches (
    adoption      text not null references tenantry.adoptions on delete cascade,
    number        bigint generated always as identity,
    table_name    text not null,
    keys          text[] not null,
    organizations uuid[] not null,
    sources       smallint[] not null,
    primary key (adoption, table_name, number)
);
comment on table tenantry.adopt_batches is 'The mapping: rows that got their organization, a batch each (as arrays: a tenth of the cost of a row each).';
comment on column tenantry.adopt_batches.keys is 'The key of each row: its text, or a JSON array of texts where the key has several columns.';
comment on column tenantry.adopt_batches.sources is 'Which source of the plan decided, counted from 1; 0: the trigger, on a live write.';

create table tenantry.adopt_unresolved (
    adoption   text not null references tenantry.adoptions on delete cascade,
    table_name text not null,
    key        text not null,
    reason     text not null,
    detail     jsonb not null,
    primary key (adoption, table_name, key)
);
comment on table tenantry.adopt_unresolved is 'Rows without an organization, and why.';

create table tenantry.adopt_checkpoints (
    adoption   text not null references tenantry.adoptions on delete cascade,
    table_name text not null,
    position   text[] not null,
    primary key (adoption, table_name)
);
comment on table tenantry.adopt_checkpoints is 'The last key a run under way has seen; gone when the table is done.';

create table tenantry.adopt_changes (
    adoption text not null references tenantry.adoptions on delete cascade,
    number   bigint generated always as identity,
    what     text not null,
    made     text not null,
    undo     text not null,
    primary key (adoption, number),
    unique (adoption, what)
);
comment on table tenantry.adopt_changes is 'Changes of the schema, and the statement that takes each back.';

-- Letters lose their accents, everything else becomes a hyphen.
create function tenantry.adopt_slug(p_text text) returns text
    language sql immutable parallel safe
    set search_path = pg_catalog, pg_temp
    as $$
        select trim(both '-' from left(trim(both '-' from regexp_replace(regexp_replace(lower(normalize(p_text, nfkd)),
               '[\u0300-\u036f''’]', '', 'g'), '[^a-z0-9]+', '-', 'g')), 40))
    $$;
comment on function tenantry.adopt_slug(text) is 'A slug of at most 40 characters; empty when nothing of the text can stand in one.';

-- RFC 9562, for rows that a trigger makes; the program brings its own.
create function tenantry.adopt_uuid_v7() returns uuid
    language sql volatile parallel safe
    set search_path = pg_catalog, pg_temp
    as $$
        select encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid())
               placing substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3) from 1 for 6), 52, 1), 53, 1), 'hex')::uuid
    $$;
comment on function tenantry.adopt_uuid_v7() is 'A UUID of version 7.';

create function tenantry.adopt_create_organization(p_adoption text, p_id uuid, p_name text, p_slug text, p_personal boolean) returns uuid
    language plpgsql volatile security definer
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
declare
    base constant text := coalesce(nullif(p_slug, ''), 'workspace');
    candidate text := base;
begin
    for attempt in 2 .. 40 loop
        -- After a few neighbours a random ending: a thousand Johns must not try a thousand names each.
        insert into tenantry.organizations (id, name, slug, is_personal)
        values (p_id, left(p_name, 200), candidate, p_personal)
        on conflict (slug) do nothing;
        if found then
            insert into tenantry.adopt_created (adoption, organization_id) values (p_adoption, p_id);
            return p_id;
        end if;
        candidate := base || '-' || case when attempt < 20 then attempt::text else substr(md5(random()::text), 1, 8) end;
    end loop;
    raise exception 'no free slug for %', base using errcode = 'unique_violation';
end
$$;
comment on function tenantry.adopt_create_organization(text, uuid, text, text, boolean) is 'Makes an organization with the first free slug.';

create function tenantry.adopt_create_membership(p_adoption text, p_organization uuid, p_user uuid, p_role tenantry.member_role, p_id uuid) returns void
    language plpgsql volatile security definer
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
begin
    insert into tenantry.organization_members (id, organization_id, user_id, role)
    values (p_id, p_organization, p_user, p_role)
    on conflict (organization_id, user_id) do nothing;
    if found then
        insert into tenantry.adopt_created (adoption, organization_id, user_id) values (p_adoption, p_organization, p_user);
    end if;
end
$$;
comment on function tenantry.adopt_create_membership(text, uuid, uuid, tenantry.member_role, uuid) is 'Makes a membership unless there is one, also a past one.';

-- The one way a legacy organization becomes an organization; a run calls it, and a trigger for one that is made live. One with
-- the id of an organization that somebody else made is a duplicate key, unless it may be joined.
create function tenantry.adopt_organization(p_adoption text, p_legacy_id text, p_id uuid, p_name text, p_slug text, p_join boolean) returns uuid
    language plpgsql volatile security definer
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
declare
    organization uuid;
begin
    perform pg_advisory_xact_lock(hashtext('tenantry.adopt.' || p_adoption), hashtext('organization ' || p_legacy_id));
    select organization_id into organization from tenantry.adopt_organizations where adoption = p_adoption and legacy_id = p_legacy_id;
    if organization is not null then
        update tenantry.adopt_organizations set ended = false where adoption = p_adoption and legacy_id = p_legacy_id and ended;
        if found then
            update tenantry.organizations set deleted_at = null where id = organization;
        end if;
        return organization;
    end if;
    select o.id into organization from tenantry.organizations o
     where o.id = p_id and o.deleted_at is null
       and (p_join or exists (select from tenantry.adopt_created c where c.adoption = p_adoption and c.organization_id = o.id and c.user_id is null));
    if organization is null then
        organization := tenantry.adopt_create_organization(p_adoption, p_id, p_name, tenantry.adopt_slug(coalesce(p_slug, p_name)), false);
    end if;
    insert into tenantry.adopt_organizations (adoption, legacy_id, organization_id) values (p_adoption, p_legacy_id, organization);
    return organization;
end
$$;
comment on function tenantry.adopt_organization(text, text, uuid, text, text, boolean) is 'Makes a legacy organization an organization of Tenantry, once; opens it again if it was closed there.';

-- One that somebody else made, or closed already, is theirs.
create function tenantry.adopt_end_organization(p_adoption text, p_legacy_id text) returns void
    language plpgsql volatile security definer
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
begin
    update tenantry.organizations o set deleted_at = now()
      from tenantry.adopt_organizations a
     where a.adoption = p_adoption and a.legacy_id = p_legacy_id and o.id = a.organization_id and o.deleted_at is null
       and exists (select from tenantry.adopt_created c where c.adoption = p_adoption and c.organization_id = o.id and c.user_id is null);
    if found then
        update tenantry.adopt_organizations set ended = true where adoption = p_adoption and legacy_id = p_legacy_id;
    end if;
end
$$;
comment on function tenantry.adopt_end_organization(text, text) is 'Closes an organization that this adoption made.';

-- Memberships that somebody else made, as the sync does, are theirs.
create function tenantry.adopt_set_membership(p_adoption text, p_organization uuid, p_user uuid, p_role tenantry.member_role) returns void
    language plpgsql volatile security definer
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
begin
    perform tenantry.adopt_create_membership(p_adoption, p_organization, p_user, p_role, tenantry.adopt_uuid_v7());
    update tenantry.organization_members m set role = p_role, deleted_at = null, updated_at = now()
     where m.organization_id = p_organization and m.user_id = p_user and (m.role <> p_role or m.deleted_at is not null)
       and exists (select from tenantry.adopt_created c where c.adoption = p_adoption and c.organization_id = p_organization and c.user_id = p_user);
end
$$;
comment on function tenantry.adopt_set_membership(text, uuid, uuid, tenantry.member_role) is 'Makes a membership, or gives one that this adoption made its role.';

create function tenantry.adopt_end_membership(p_adoption text, p_organization uuid, p_user uuid) returns void
    language plpgsql volatile security definer
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
begin
    update tenantry.organization_members m set deleted_at = now(), updated_at = now()
     where m.organization_id = p_organization and m.user_id = p_user and m.deleted_at is null
       and exists (select from tenantry.adopt_created c where c.adoption = p_adoption and c.organization_id = p_organization and c.user_id = p_user);
    if not found then
        return;
    end if;
    update tenantry.users u set current_organization_id = null where u.id = p_user and u.current_organization_id = p_organization;
    update tenantry.adopt_users a set organization_id = null, outcome = 'unresolved', reason = 'is no longer a member of its organization'
     where a.adoption = p_adoption and a.user_id = p_user and a.organization_id = p_organization;
end
$$;
comment on function tenantry.adopt_end_membership(text, uuid, uuid) is 'Ends a membership that this adoption made.';

create function tenantry.adopt_end_user(p_adoption text, p_legacy_id text) returns void
    language plpgsql volatile security definer
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
declare
    person uuid;
begin
    select user_id into person from tenantry.adopt_users where adoption = p_adoption and legacy_id = p_legacy_id;
    perform tenantry.adopt_end_membership(p_adoption, c.organization_id, person)
       from tenantry.adopt_created c where c.adoption = p_adoption and c.user_id = person;
    -- A workspace of one's own goes with its owner; rows that are still in it are reported.
    update tenantry.organizations o set deleted_at = now()
      from tenantry.adopt_created c
     where c.adoption = p_adoption and c.user_id = person and o.id = c.organization_id and o.is_personal and o.deleted_at is null
       and not exists (select from tenantry.organization_members m where m.organization_id = o.id and m.deleted_at is null);
    update tenantry.users u set deleted_at = now() where u.id = person and u.deleted_at is null
       and exists (select from tenantry.adopt_users a where a.adoption = p_adoption and a.user_id = person and a.user_created);
    update tenantry.adopt_users set ended = true where adoption = p_adoption and legacy_id = p_legacy_id;
end
$$;
comment on function tenantry.adopt_end_user(text, text) is 'Ends what this adoption gave to a user who is gone.';

-- Whom the identity provider deleted stays deleted. Memberships that the legacy database knows come from there.
create function tenantry.adopt_resume_user(p_adoption text, p_legacy_id text) returns boolean
    language plpgsql volatile security definer
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
declare
    person uuid;
    organization uuid;
begin
    update tenantry.adopt_users set ended = false where adoption = p_adoption and legacy_id = p_legacy_id and ended returning user_id into person;
    if person is null then
        return false;
    end if;
    update tenantry.users u set deleted_at = null
     where u.id = person and exists (select from tenantry.adopt_users a where a.adoption = p_adoption and a.user_id = person and a.user_created)
       and not exists (select from tenantry.sync_objects s where s.source = 'CLERK' and s.kind = 'user' and s.object_id = u.clerk_id and s.deleted_at is not null);
    update tenantry.organizations o set deleted_at = null
      from tenantry.adopt_created c
     where c.adoption = p_adoption and c.user_id = person and o.id = c.organization_id and o.is_personal;
    -- There may be several: into a variable goes one row only.
    with resumed as (
        update tenantry.organization_members m set deleted_at = null, updated_at = now()
          from tenantry.adopt_created c join tenantry.organizations o on o.id = c.organization_id and o.deleted_at is null
         where c.adoption = p_adoption and c.user_id = person and m.user_id = person and m.organization_id = c.organization_id
           and (o.is_personal or o.id = (select a.default_organization from tenantry.adoptions a where a.name = p_adoption))
        returning m.organization_id)
    select r.organization_id into organization from resumed r order by r.organization_id limit 1;
    if organization is not null then
        update tenantry.users set current_organization_id = coalesce(current_organization_id, organization) where id = person;
        update tenantry.adopt_users set organization_id = organization, outcome = 'processed', reason = null where adoption = p_adoption and legacy_id = p_legacy_id;
    end if;
    return true;
end
$$;
comment on function tenantry.adopt_resume_user(text, text) is 'Gives back to a user who came back what ended with them; false: they were not gone.';

create function tenantry.adopt_default_organization(p_adoption text, p_id uuid) returns uuid
    language plpgsql volatile security definer
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
declare
    adoption tenantry.adoptions;
    organization uuid;
begin
    -- Without a lock, as soon as it is there: registrations would wait for one another, and with them whoever writes to an
    -- adopted table. And never a lock that a foreign key to this row waits for.
    select * into adoption from tenantry.adoptions where name = p_adoption;
    if adoption.default_organization is null then
        select * into adoption from tenantry.adoptions where name = p_adoption for no key update;
    end if;
    if adoption.default_organization is not null then
        return adoption.default_organization;
    end if;
    if (adoption.plan #>> '{workspaces,join_existing}')::boolean then
        select id into organization from tenantry.organizations where slug = adoption.plan #>> '{workspaces,slug}' and deleted_at is null;
    end if;
    if organization is null then
        organization := tenantry.adopt_create_organization(p_adoption, p_id, adoption.plan #>> '{workspaces,name}', adoption.plan #>> '{workspaces,slug}', false);
    end if;
    update tenantry.adoptions set default_organization = organization where name = p_adoption;
    return organization;
end
$$;
comment on function tenantry.adopt_default_organization(text, uuid) is 'The default workspace of the plan; makes it when it is first needed.';

-- The one way a legacy user becomes a user with an organization; a run calls it once per user, a trigger for a newcomer
-- (p_live). Whoever registers in the old application writes what they like there: an address alone then neither makes them
-- somebody whom Tenantry knows, nor the owner of the default workspace, nor a row that the sync would take for theirs.
create function tenantry.adopt_user(
    p_adoption text, p_legacy_id text, p_clerk_id text, p_email text, p_name text,
    p_organization uuid, p_reason text, p_memberships jsonb, p_policy text, p_ids uuid[], p_live boolean) returns text
    language plpgsql volatile security definer
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
declare
    known tenantry.adopt_users;
    person tenantry.users;
    candidates uuid[];
    organization uuid := p_organization;
    why text := p_reason;
    result text := 'processed';
    made_user boolean := false;
    sets_current boolean := false;
    gone boolean := false;
    settings jsonb;
    first_name text;
    membership jsonb;
begin
    -- A run and a trigger may meet the same newcomer.
    perform pg_advisory_xact_lock(hashtext('tenantry.adopt.' || p_adoption), hashtext(p_legacy_id));
    select * into known from tenantry.adopt_users where adoption = p_adoption and legacy_id = p_legacy_id for update;
    if known.organization_id is not null then
        return 'skipped';
    end if;
    select plan -> 'workspaces' into settings from tenantry.adoptions where name = p_adoption;

    -- Who is it? Whom an earlier run found; else by the identity provider's id; else by e-mail, if that names one person.
    -- Who was deleted is found as well: the id is taken.
    if known.user_id is not null then
        select * into person from tenantry.users where id = known.user_id;
    else
        select * into person from tenantry.users
         where clerk_id in (p_clerk_id, 'legacy:' || p_adoption || ':' || p_legacy_id)
         order by clerk_id = p_clerk_id desc nulls last limit 1;
        if person.id is null and p_email is not null and not p_live then
            select array_agg(u.id) into candidates
              from tenantry.users u
             where lower(u.email) = lower(p_email) and u.deleted_at is null
               and not exists (select from tenantry.adopt_users a where a.adoption = p_adoption and a.user_id = u.id);
            if cardinality(candidates) = 1 then
                select * into person from tenantry.users where id = candidates[1];
            elsif cardinality(candidates) > 1 then
                why := coalesce(why, format('%s users of Tenantry have this e-mail address', cardinality(candidates)));
            end if;
        end if;
    end if;
    if person.deleted_at is not null then
        why := coalesce(why, 'was deleted at the identity provider');
        person := null;
        gone := true;
    end if;
    if why is not null then
        organization := null;
    end if;

    if why is null and organization is null and person.id is not null then
        select array_agg(m.organization_id) into candidates
          from tenantry.organization_members m join tenantry.organizations o on o.id = m.organization_id and o.deleted_at is null
         where m.user_id = person.id and m.deleted_at is null;
        if cardinality(candidates) = 1 then
            organization := candidates[1];
        elsif person.current_organization_id = any (candidates) then
            organization := person.current_organization_id;
        elsif cardinality(candidates) > 1 then
            why := 'is a member of several organizations in Tenantry, and none is the current one';
        end if;
        if organization is not null then
            result := 'skipped';
        end if;
    end if;
    if why is null and organization is null and p_policy = 'leave' then
        why := 'has no organization, and the plan leaves such users alone';
    end if;

    if person.id is null and not gone and (why is null or jsonb_array_length(p_memberships) > 0) and coalesce(cardinality(candidates), 0) <= 1 then
        insert into tenantry.users (id, clerk_id, email, name)
        values (p_ids[1], coalesce(p_clerk_id, 'legacy:' || p_adoption || ':' || p_legacy_id),
                case when char_length(p_email) between 3 and 320
                      and not (p_live and exists (select from tenantry.users u where lower(u.email) = lower(p_email))) then p_email end,
                left(coalesce(p_name, nullif(split_part(p_email, '@', 1), ''), 'User ' || p_legacy_id), 200))
        returning * into person;
        made_user := true;
    end if;

    if why is null and organization is null then
        if p_policy = 'default' then
            organization := tenantry.adopt_default_organization(p_adoption, p_ids[2]);
            perform tenantry.adopt_create_membership(p_adoption, organization, person.id,
                        case when not p_live and lower(p_email) = lower(settings ->> 'owner') then 'OWNER' else (settings ->> 'role')::tenantry.member_role end, p_ids[3]);
        else
            first_name := split_part(btrim(coalesce(p_name, person.name)), ' ', 1);
            organization := tenantry.adopt_create_organization(p_adoption, p_ids[2], first_name || '''s Workspace',
                                tenantry.adopt_slug(first_name) || case when tenantry.adopt_slug(first_name) = '' then 'workspace' else '-workspace' end, true);
            perform tenantry.adopt_create_membership(p_adoption, organization, person.id, 'OWNER', p_ids[3]);
        end if;
    end if;
    if person.id is not null then
        for membership in select * from jsonb_array_elements(p_memberships) loop
            perform tenantry.adopt_create_membership(p_adoption, (membership ->> 'organization')::uuid, person.id,
                        (membership ->> 'role')::tenantry.member_role, tenantry.adopt_uuid_v7());
        end loop;
    end if;
    if organization is not null and p_organization is not null then
        -- The current organization need not have a membership row in the legacy database.
        perform tenantry.adopt_create_membership(p_adoption, organization, person.id, 'MEMBER', p_ids[3]);
    end if;

    if organization is not null and person.current_organization_id is null then
        update tenantry.users set current_organization_id = organization where id = person.id;
        sets_current := true;
    end if;
    insert into tenantry.adopt_users as u (adoption, legacy_id, user_id, organization_id, outcome, reason, user_created, current_before, current_set)
    values (p_adoption, p_legacy_id, person.id, organization, case when organization is null then 'unresolved' else result end,
            why, made_user, person.current_organization_id, sets_current)
    on conflict (adoption, legacy_id) do update
       set user_id = excluded.user_id, organization_id = excluded.organization_id, outcome = excluded.outcome, reason = excluded.reason,
           user_created = u.user_created or excluded.user_created, current_before = excluded.current_before, current_set = excluded.current_set
     where (u.user_id, u.organization_id, u.outcome, u.reason)
           is distinct from (excluded.user_id, excluded.organization_id, excluded.outcome, excluded.reason);
    return case when organization is null then 'unresolved' else result end;
end
$$;
comment on function tenantry.adopt_user(text, text, text, text, text, uuid, text, jsonb, text, uuid[], boolean) is
    'Makes a legacy user a user of Tenantry with an organization, or records why not: processed, skipped or unresolved.';

-- Takes back what adopt_user and the organizations of the plan made, as far as nothing else has come to depend on it.
create function tenantry.adopt_take_back(p_adoption text) returns table (kept text)
    language plpgsql volatile security definer
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
declare
    item record;
begin
    update tenantry.users u set current_organization_id = a.current_before
      from tenantry.adopt_users a
     where a.adoption = p_adoption and a.user_id = u.id and a.current_set and u.current_organization_id = a.organization_id;
    delete from tenantry.organization_members m
     using tenantry.adopt_created c
     where c.adoption = p_adoption and c.user_id = m.user_id and c.organization_id = m.organization_id
       and not exists (select from tenantry.adopt_created o where o.adoption = p_adoption and o.user_id is null and o.organization_id = c.organization_id);
    for item in select * from tenantry.adopt_created where adoption = p_adoption and user_id is null loop
        -- One that has to stay keeps its members.
        begin
            delete from tenantry.organization_members m
             using tenantry.adopt_created c
             where c.adoption = p_adoption and c.organization_id = item.organization_id
               and c.user_id = m.user_id and c.organization_id = m.organization_id;
            delete from tenantry.organizations where id = item.organization_id;
        exception when foreign_key_violation then
            kept := format('organization %s: other rows refer to it', item.organization_id);
            return next;
        end;
    end loop;
    for item in select * from tenantry.adopt_users where adoption = p_adoption and user_created loop
        begin
            delete from tenantry.users where id = item.user_id;
        exception when foreign_key_violation then
            kept := format('user %s: other rows refer to it', item.user_id);
            return next;
        end;
    end loop;
end
$$;
comment on function tenantry.adopt_take_back(text) is 'Deletes memberships, organizations and users that the adoption made; answers what had to stay.';

revoke execute on function
    tenantry.adopt_slug(text),
    tenantry.adopt_uuid_v7(),
    tenantry.adopt_create_organization(text, uuid, text, text, boolean),
    tenantry.adopt_create_membership(text, uuid, uuid, tenantry.member_role, uuid),
    tenantry.adopt_organization(text, text, uuid, text, text, boolean),
    tenantry.adopt_set_membership(text, uuid, uuid, tenantry.member_role),
    tenantry.adopt_end_membership(text, uuid, uuid),
    tenantry.adopt_end_organization(text, text),
    tenantry.adopt_end_user(text, text),
    tenantry.adopt_resume_user(text, text),
    tenantry.adopt_default_organization(text, uuid),
    tenantry.adopt_user(text, text, text, text, text, uuid, text, jsonb, text, uuid[], boolean),
    tenantry.adopt_take_back(text)
    from public;
