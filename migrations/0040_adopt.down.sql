-- The mapping is lost: a rollback of an adoption is not possible afterwards. Triggers on adopted tables need these
-- functions, so they go first; adopted tables keep their column, policies and rows.
do $$
declare
    item record;
begin
    for item in
        select t.tgname, t.tgrelid::regclass as table_name
          from pg_trigger t join pg_proc p on p.oid = t.tgfoid
         where p.pronamespace = 'adopt'::regnamespace and not t.tgisinternal
    loop
        execute format('drop trigger %I on %s', item.tgname, item.table_name);
    end loop;
end
$$;
drop schema adopt cascade;
