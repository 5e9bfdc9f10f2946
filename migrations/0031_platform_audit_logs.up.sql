-- What superadmins did through the API's platform fields, which look across tenants: audit_logs has no place for it,
-- since each of its rows belongs to one tenant.
create table platform_audit_logs (
    id          uuid primary key,
    user_id     uuid not null references users (id),
    action      text not null check (char_length(action) between 1 and 200),
    metadata    jsonb not null default '{}' check (jsonb_typeof(metadata) = 'object'),
    ip_address  inet,
    request_id  text check (char_length(request_id) <= 200),
    created_at  timestamptz not null default now()
);

-- No tenant sees it: the application role has neither policy nor grant.
alter table platform_audit_logs enable row level security;
alter table platform_audit_logs force row level security;
create policy superadmin on platform_audit_logs for all to tenantry_superadmin using (true) with check (true);
grant select, insert on platform_audit_logs to tenantry_superadmin;

create index platform_audit_logs_created_at_idx on platform_audit_logs (created_at, id);
create index platform_audit_logs_user_id_idx on platform_audit_logs (user_id, created_at);
create trigger append_only before update or delete on platform_audit_logs for each row execute function app.refuse_audit_change();
create trigger append_only_truncate before truncate on platform_audit_logs for each statement execute function app.refuse_audit_change();

comment on table platform_audit_logs is 'What superadmins did across tenants through the API, append only.';
comment on column platform_audit_logs.action is 'What was done, e.g. webhook_events.list.';
comment on column platform_audit_logs.metadata is 'JSON object: ids and counts, never contents.';
