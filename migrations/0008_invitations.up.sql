create table invitations (
    id              uuid not null,
    organization_id uuid not null references organizations (id),
    email           text not null check (char_length(email) between 3 and 320),
    role            member_role not null default 'MEMBER',
    token_hash      bytea not null,
    invited_by      uuid references users (id),
    expires_at      timestamptz not null,
    accepted_at     timestamptz,
    revoked_at      timestamptz,
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, token_hash),
    check (accepted_at is null or revoked_at is null)
);

alter table invitations enable row level security;
alter table invitations force row level security;
create policy tenant on invitations for all to tenantry_app
    using (organization_id = app.current_org()) with check (organization_id = app.current_org());
create policy superadmin on invitations for all to tenantry_superadmin using (true) with check (true);
grant select (id, organization_id, email, role, invited_by, expires_at, accepted_at, revoked_at, created_at, updated_at),
      insert, update on invitations to tenantry_app;
grant all on invitations to tenantry_superadmin;

create index invitations_created_at_idx on invitations (organization_id, created_at, id);
create index invitations_email_idx on invitations (organization_id, email, id);
create unique index invitations_pending_key on invitations (organization_id, lower(email)) where accepted_at is null and revoked_at is null;
create index invitations_invited_by_idx on invitations (organization_id, invited_by, created_at, id);
create index invitations_token_hash_idx on invitations (token_hash);
create trigger touch_updated_at before update on invitations for each row execute function app.touch_updated_at();

comment on table invitations is 'Invitations by email; each works once.';
comment on column invitations.token_hash is 'SHA-256 of the token in the link; the token is stored nowhere. The application role can write but not read it.';
comment on column invitations.invited_by is 'User; null when it came from outside (sync, command).';
comment on index invitations_pending_key is 'One open invitation per address; an expired one is revoked before the next.';
comment on index invitations_token_hash_idx is 'Who follows a link has no tenant yet: read by the superadmin role.';
