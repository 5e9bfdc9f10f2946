-- The two doors between a token and the database. They look across tenants, so they run with the rights of
-- tenantry_superadmin; the application role may execute them and gets back nothing but the caller's own memberships.
-- The SET clause costs about 2 µs of 27 per call (PostgreSQL 15) and keeps the caller's search_path out. What set_config
-- sets in here for other settings lasts to the end of the transaction all the same.

create function app.enter_tenant(p_sub text, p_org_id uuid, p_org_clerk_id text, p_org_slug text)
    returns table (user_id uuid, organization_id uuid, role public.member_role, is_superadmin boolean)
    language plpgsql volatile security definer rows 1
    set search_path = pg_catalog, public, app, pg_temp
    as $$
declare
    ignored text;
begin
    if pg_catalog.num_nonnulls(p_org_id, p_org_clerk_id, p_org_slug) <> 1 then
        raise exception 'enter_tenant takes exactly one of id, Clerk id and slug' using errcode = 'invalid_parameter_value';
    end if;
    -- One statement per kind of key, so that each keeps its own plan.
    if p_org_id is not null then
        select u.id, m.organization_id, m.role, u.is_superadmin
          into enter_tenant.user_id, enter_tenant.organization_id, enter_tenant.role, enter_tenant.is_superadmin
          from public.users u
          join public.organizations o on o.id = p_org_id and o.deleted_at is null
          join public.organization_members m on m.organization_id = o.id and m.user_id = u.id and m.deleted_at is null
         where u.clerk_id = p_sub and u.deleted_at is null;
    elsif p_org_clerk_id is not null then
        select u.id, m.organization_id, m.role, u.is_superadmin
          into enter_tenant.user_id, enter_tenant.organization_id, enter_tenant.role, enter_tenant.is_superadmin
          from public.users u
          join public.organizations o on o.clerk_org_id = p_org_clerk_id and o.deleted_at is null
          join public.organization_members m on m.organization_id = o.id and m.user_id = u.id and m.deleted_at is null
         where u.clerk_id = p_sub and u.deleted_at is null;
    else
        select u.id, m.organization_id, m.role, u.is_superadmin
          into enter_tenant.user_id, enter_tenant.organization_id, enter_tenant.role, enter_tenant.is_superadmin
          from public.users u
          join public.organizations o on o.slug = p_org_slug and o.deleted_at is null
          join public.organization_members m on m.organization_id = o.id and m.user_id = u.id and m.deleted_at is null
         where u.clerk_id = p_sub and u.deleted_at is null;
    end if;
    -- Nulls, when nothing was found, leave ''.
    -- Assignments, because perform would start the executor for each.
    ignored := pg_catalog.set_config('app.current_org_id', enter_tenant.organization_id::text, true);
    ignored := pg_catalog.set_config('app.current_user_id', enter_tenant.user_id::text, true);
    ignored := pg_catalog.set_config('app.is_superadmin', 'false', true);
    if enter_tenant.user_id is not null then
        return next;
    end if;
end
$$;
comment on function app.enter_tenant(text, uuid, text, text) is
    'Opens a tenant for this transaction: sets app.current_org_id, app.current_user_id and app.is_superadmin (always false) and answers the membership. No row, and empty settings, when the user, the organization or the membership is not there: the three cannot be told apart.';

create function app.viewer(p_sub text)
    returns table (user_id uuid, email text, name text, avatar_url text, is_superadmin boolean, current_organization_id uuid,
                   organization_id uuid, organization_name text, organization_slug text, clerk_org_id text, role public.member_role)
    language sql stable security definer rows 5
    set search_path = pg_catalog, public, app, pg_temp
    as $$
        select u.id, u.email, u.name, u.avatar_url, u.is_superadmin, u.current_organization_id,
               m.id, m.name, m.slug, m.clerk_org_id, m.role
          from public.users u
          left join (select om.user_id, om.role, o.id, o.name, o.slug, o.clerk_org_id
                       from public.organization_members om
                       join public.organizations o on o.id = om.organization_id and o.deleted_at is null
                      where om.deleted_at is null) m on m.user_id = u.id
         where u.clerk_id = p_sub and u.deleted_at is null
         order by m.name, m.id
    $$;
comment on function app.viewer(text) is
    'The user behind a token with every living membership, by name of the organization; one row with nulls for a user without any, no row for an unknown user.';

revoke execute on function app.enter_tenant(text, uuid, text, text), app.viewer(text) from public;
grant execute on function app.enter_tenant(text, uuid, text, text), app.viewer(text) to tenantry_app, tenantry_superadmin;

-- A new owner needs CREATE on the schema at the moment it becomes one, and only then.
grant create on schema app to tenantry_superadmin;
alter function app.enter_tenant(text, uuid, text, text) owner to tenantry_superadmin;
alter function app.viewer(text) owner to tenantry_superadmin;
revoke create on schema app from tenantry_superadmin;
