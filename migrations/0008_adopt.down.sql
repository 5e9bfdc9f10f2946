-- The mapping is lost: a rollback of an adoption is not possible afterwards. The functions that adoptions made, and with
-- them their triggers on adopted tables, go first; adopted tables keep their column, policies and rows.
do $$
declare
    item record;
begin
    for item in
        select p.oid::regprocedure as function from pg_proc p
         where p.pronamespace = 'tenantry'::regnamespace and (p.proname like 'adopt\_fill\_%' or p.proname like 'adopt\_meet\_%' or p.proname like 'adopt\_member\_%')
    loop
        execute format('drop function %s cascade', item.function);
    end loop;
end
$$;
drop function tenantry.adopt_take_back(text);
drop function tenantry.adopt_user(text, text, text, text, text, uuid, text, jsonb, text, uuid[], boolean);
drop function tenantry.adopt_default_organization(text, uuid);
drop function tenantry.adopt_resume_user(text, text);
drop function tenantry.adopt_end_user(text, text);
drop function tenantry.adopt_end_organization(text, text);
drop function tenantry.adopt_end_membership(text, uuid, uuid);
drop function tenantry.adopt_set_membership(text, uuid, uuid, tenantry.member_role);
drop function tenantry.adopt_organization(text, text, uuid, text, text, boolean);
drop function tenantry.adopt_create_membership(text, uuid, uuid, tenantry.member_role, uuid);
drop function tenantry.adopt_create_organization(text, uuid, text, text, boolean);
drop function tenantry.adopt_uuid_v7();
drop function tenantry.adopt_slug(text);
drop table tenantry.adopt_changes;
drop table tenantry.adopt_checkpoints;
drop table tenantry.adopt_unresolved;
drop table tenantry.adopt_batches;
drop table tenantry.adopt_created;
drop table tenantry.adopt_users;
drop table tenantry.adopt_organizations;
drop table tenantry.adoptions;
