-- What organizations have spent of their budgets of the API: shared by all instances.

-- Unlogged: it is written every second, and whoever loses it begins with full budgets.
create unlogged table tenantry.api_spending (
    organization_id uuid primary key references tenantry.organizations (id),
    full_at         timestamptz not null
) with (fillfactor = 50);

alter table tenantry.api_spending enable row level security;
alter table tenantry.api_spending force row level security;
create policy tenant on tenantry.api_spending for select to tenantry_app using (organization_id = tenantry.current_org());
create policy superadmin on tenantry.api_spending for all to tenantry_superadmin using (true) with check (true);
grant select on tenantry.api_spending to tenantry_app;
grant all on tenantry.api_spending to tenantry_superadmin;

comment on table tenantry.api_spending is 'What organizations have spent of their budgets of the API, in all instances. Written once a second.';
comment on column tenantry.api_spending.full_at is 'When the budget is full again if nothing more is spent.';
