create or replace function tenantry.tell_access(p_organization_id uuid, p_user_id uuid) returns void
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

drop table tenantry.event_marks;
drop table tenantry.event_log;
