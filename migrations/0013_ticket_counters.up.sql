create table ticket_counters (
    organization_id uuid primary key references organizations (id),
    last_number     bigint not null default 0 check (last_number >= 0)
);

alter table ticket_counters enable row level security;
alter table ticket_counters force row level security;
create policy tenant on ticket_counters for all to tenantry_app
    using (organization_id = app.current_org()) with check (organization_id = app.current_org());
create policy superadmin on ticket_counters for all to tenantry_superadmin using (true) with check (true);
grant select, insert, update on ticket_counters to tenantry_app;
grant all on ticket_counters to tenantry_superadmin;

comment on table ticket_counters is 'Last ticket number given out per organization. Counted up in the transaction that inserts the ticket: a rollback leaves no gap, the row lock no duplicate.';
