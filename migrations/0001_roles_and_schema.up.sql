-- The two group roles, the schema in which everything of Tenantry is, and the settings every policy reads.
-- Runs as the owner of the database, who need not be a superuser. Hosts that hand out no CREATEROLE
-- create the two roles (and the membership below) beforehand; then this migration leaves them as they are.

do $$
declare
    role_name text;
    -- Since PostgreSQL 16 whoever creates a role is a member of it without SET; up to 15 membership is all there is.
    privilege constant text := case when current_setting('server_version_num')::int >= 160000 then 'SET' else 'MEMBER' end;
begin
    foreach role_name in array array['tenantry_app', 'tenantry_superadmin'] loop
        if not exists (select from pg_roles where rolname = role_name) then
            begin
                execute format('create role %I nologin', role_name);
            exception
                when duplicate_object or unique_violation then
                    null; -- another database of this cluster is being migrated at this moment
                when insufficient_privilege then
                    raise exception 'role % is missing and % may not create roles', role_name, current_user
                        using errcode = 'insufficient_privilege',
                              hint = format('Run as a superuser: create role %I nologin; or: alter role %I createrole;', role_name, current_user);
            end;
        end if;
    end loop;

    -- The owner must be able to hand functions over to tenantry_superadmin (migration 0002).
    if not pg_has_role(current_user, 'tenantry_superadmin', privilege) then
        begin
            execute format('grant tenantry_superadmin to %I', current_user);
        exception
            when unique_violation then
                null;
            when insufficient_privilege then
                raise exception '% is not a member of tenantry_superadmin and may not make itself one', current_user
                    using errcode = 'insufficient_privilege',
                          hint = format('Run as a superuser: grant tenantry_superadmin to %I;', current_user);
        end;
    end if;

    -- `tenantry migrate up` makes the schema first, since the ledger of the migrations is in it, and refuses somebody else's.
    if to_regnamespace('tenantry') is null then
        create schema tenantry;
    end if;

    -- Databases born before PostgreSQL 15 let everybody create objects in public.
    if has_schema_privilege('tenantry_app', 'public', 'create') then
        begin
            revoke create on schema public from public;
        exception when insufficient_privilege then
            null;
        end;
        if has_schema_privilege('tenantry_app', 'public', 'create') then
            raise exception 'tenantry_app may create objects in schema public'
                using hint = 'Run as a superuser: revoke create on schema public from public;';
        end if;
    end if;
end
$$;

comment on schema tenantry is 'Everything of Tenantry: tables, enums, functions and the ledger of its migrations.';
revoke all on schema tenantry from public;
grant usage on schema tenantry to tenantry_app, tenantry_superadmin;

-- Kept in this shape (sql, stable, no SET, not security definer) so that the planner inlines them into the policies and
-- uses the index. The body is parsed here, once: no search_path of a caller changes what its names mean. After a
-- transaction a setting is '' and not null, hence nullif.
create function tenantry.current_org() returns uuid
    language sql stable parallel safe
    return nullif(current_setting('app.current_org_id', true), '')::uuid;
comment on function tenantry.current_org() is 'Organization of this transaction, or null: then every policy answers no rows.';

create function tenantry.current_user_id() returns uuid
    language sql stable parallel safe
    return nullif(current_setting('app.current_user_id', true), '')::uuid;
comment on function tenantry.current_user_id() is 'User of this transaction, or null.';

-- Qualified instead of a SET clause, which would cost on every row.
create function tenantry.touch_updated_at() returns trigger
    language plpgsql
    as $$
begin
    new.updated_at := pg_catalog.now();
    return new;
end
$$;
comment on function tenantry.touch_updated_at() is 'Trigger: updated_at is the time of the transaction that changed the row.';

revoke execute on function tenantry.current_org(), tenantry.current_user_id(), tenantry.touch_updated_at() from public;
grant execute on function tenantry.current_org(), tenantry.current_user_id() to tenantry_app, tenantry_superadmin;
