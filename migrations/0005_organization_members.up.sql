create table organization_members (
    id              uuid not null,
    organization_id uuid not null references organizations (id),
    user_id         uuid not null references users (id),
    role            member_role not null default 'MEMBER',
    clerk_membership_id text check (char_length(clerk_membership_id) between 1 and 255),
    source_version  bigint not null default 0,
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    deleted_at      timestamptz,
    primary key (organization_id, id),
    unique (organization_id, user_id)
);

alter table organization_members enable row level security;
alter table organization_members force row level security;
create policy tenant on organization_members for all to tenantry_app
    using (organization_id = app.current_org()) with check (organization_id = app.current_org());
create policy superadmin on organization_members for all to tenantry_superadmin using (true) with check (true);
-- No insert and no change of user_id: a membership makes a user row visible, so it is made by the sync and by
-- accepted invitations, both outside the tenant.
grant select, update (role, deleted_at, updated_at) on organization_members to tenantry_app;
grant all on organization_members to tenantry_superadmin;

create index organization_members_created_at_idx on organization_members (organization_id, created_at, id);
create index organization_members_role_idx on organization_members (organization_id, role, created_at, id);
create index organization_members_user_id_idx on organization_members (user_id);
create trigger touch_updated_at before update on organization_members for each row execute function app.touch_updated_at();

comment on table organization_members is 'Who belongs to which organization, and as what. One row per pair, also after leaving.';
comment on column organization_members.clerk_membership_id is 'Id of the membership at Clerk; a new one after leaving and joining again.';
comment on column organization_members.source_version is 'Clerk envelope timestamp in milliseconds of the last event applied; older events are skipped.';
comment on column organization_members.deleted_at is 'Set: no longer a member, the tombstone of the sync.';
