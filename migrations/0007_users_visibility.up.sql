-- A tenant sees its members and customers, former ones too: they are authors of what they left behind.
-- `offset 0` keeps the planner from hashing all members and customers of a big tenant to look up fifty users.
create policy tenant on users for select to tenantry_app
    using (
        id = app.current_user_id()
        or exists (select from organization_members m where m.organization_id = app.current_org() and m.user_id = users.id offset 0)
        or exists (select from customer_profiles c where c.organization_id = app.current_org() and c.user_id = users.id offset 0)
    );
