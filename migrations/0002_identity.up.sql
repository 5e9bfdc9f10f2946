-- Organizations, the people in them, and who may come in: members, invitations, API keys, and the two doors.

create type tenantry.organization_plan as enum ('FREE', 'STARTER', 'PRO', 'ENTERPRISE');
comment on type tenantry.organization_plan is 'Plans, cheapest first: comparison with < and > follows this order.';
create type tenantry.organization_status as enum ('ACTIVE', 'TRIALING', 'PAST_DUE', 'SUSPENDED', 'CHURNED');
comment on type tenantry.organization_status is 'Life cycle of a tenant.';
create type tenantry.member_role as enum ('OWNER', 'ADMIN', 'MEMBER', 'VIEWER');
comment on type tenantry.member_role is 'Role of a member within one organization, strongest first.';
create type tenantry.domain_enrollment as enum ('JOIN', 'REQUEST');
comment on type tenantry.domain_enrollment is 'Whether whoever has an address at a domain joins at once, or asks.';
create type tenantry.user_role as enum ('CUSTOMER', 'REPRESENTATIVE', 'ADMIN');
comment on type tenantry.user_role is 'What a user is to one organization; derived from profile, representative and member rows, stored nowhere.';

create table tenantry.organizations (
    id             uuid primary key,
    clerk_org_id   text unique check (char_length(clerk_org_id) between 1 and 255),
    name           text not null check (char_length(name) between 1 and 200),
    slug           text not null unique check (slug ~ '^[a-z0-9](-?[a-z0-9])*$' and char_length(slug) <= 63),
    status         tenantry.organization_status not null default 'ACTIVE',
    is_personal    boolean not null default false,
    industry       text check (char_length(industry) <= 100),
    support_email  text check (char_length(support_email) between 3 and 320),
    settings       jsonb not null default '{}' check (jsonb_typeof(settings) = 'object'),
    version        integer not null default 1 check (version > 0),
    source_version bigint not null default 0,
    created_at     timestamptz not null default now(),
    updated_at     timestamptz not null default now(),
    suspended_at   timestamptz,
    suspension_reason text check (char_length(suspension_reason) between 1 and 500),
    deleted_at     timestamptz,
    purge_at       timestamptz check (purge_at is null or deleted_at is not null),
    purged_at      timestamptz,
    check ((suspended_at is null) = (suspension_reason is null))
);

alter table tenantry.organizations enable row level security;
alter table tenantry.organizations force row level security;
create policy tenant on tenantry.organizations for all to tenantry_app
    using (id = tenantry.current_org()) with check (id = tenantry.current_org());
create policy superadmin on tenantry.organizations for all to tenantry_superadmin using (true) with check (true);
grant select, update (name, industry, support_email, settings, version, updated_at, deleted_at, purge_at) on tenantry.organizations to tenantry_app;
grant all on tenantry.organizations to tenantry_superadmin;

create index organizations_created_at_idx on tenantry.organizations (created_at, id);
create index organizations_name_idx on tenantry.organizations (name, id);
create index organizations_purge_at_idx on tenantry.organizations (purge_at) where purged_at is null and purge_at is not null;
create trigger touch_updated_at before update on tenantry.organizations for each row execute function tenantry.touch_updated_at();

comment on table tenantry.organizations is 'Tenants. The plan is on subscriptions; every tenant table refers to this one.';
comment on column tenantry.organizations.clerk_org_id is 'Id of the organization at Clerk; null when it is not synced from there.';
comment on column tenantry.organizations.slug is 'Name in addresses; at most 63 characters so that it can be a host label. A deleted organization keeps its slug until a living one of the identity provider has it.';
comment on column tenantry.organizations.is_personal is 'The workspace a new user gets, with that user as OWNER.';
comment on column tenantry.organizations.settings is 'JSON object of the tenant''s own settings.';
comment on column tenantry.organizations.version is 'Optimistic lock: every update by a user adds one; a writer that brings an older number is refused.';
comment on column tenantry.organizations.source_version is 'Version of the source this row was last synced from (Clerk: envelope timestamp in milliseconds); older events are skipped. Of a personal workspace: 1 when it was made here, and follows its user''s name until they change it.';
comment on column tenantry.organizations.suspended_at is 'Set by an operator: members read, and change nothing.';
comment on column tenantry.organizations.deleted_at is 'Set: the organization is gone for everybody, its rows stay.';
comment on column tenantry.organizations.purge_at is 'Set when an owner deleted it: until then an owner may restore it, from then on a job removes its rows.';
comment on column tenantry.organizations.purged_at is 'Set: its rows are removed. This row stays without a name, with the audit log.';

-- Global: one row per person, whatever the number of organizations. Which users a tenant sees depends on
-- members and customers, so that policy comes with the customers (migration 0004); until then: none.
create table tenantry.users (
    id                      uuid primary key,
    clerk_id                text not null unique check (char_length(clerk_id) between 1 and 255),
    email                   text check (char_length(email) between 3 and 320),
    name                    text not null check (char_length(name) between 1 and 200),
    avatar_url              text check (char_length(avatar_url) <= 2048),
    verified_email          text check (char_length(verified_email) between 3 and 320),
    is_superadmin           boolean not null default false,
    current_organization_id uuid references tenantry.organizations (id),
    source_version          bigint not null default 0,
    blocked_until           timestamptz,
    created_at              timestamptz not null default now(),
    updated_at              timestamptz not null default now(),
    deleted_at              timestamptz,
    erased_at               timestamptz check (erased_at is null or deleted_at is not null and email is null and verified_email is null and avatar_url is null)
);

alter table tenantry.users enable row level security;
alter table tenantry.users force row level security;
create policy superadmin on tenantry.users for all to tenantry_superadmin using (true) with check (true);
-- Not current_organization_id: which other organization a colleague is working in is nobody's business here.
grant select (id, clerk_id, email, name, avatar_url, is_superadmin, created_at, updated_at, deleted_at) on tenantry.users to tenantry_app;
grant all on tenantry.users to tenantry_superadmin;

create index users_created_at_idx on tenantry.users (created_at, id);
create index users_name_idx on tenantry.users (name, id);
create index users_email_idx on tenantry.users (email, id);
create index users_lower_email_idx on tenantry.users (lower(email));
create index users_current_organization_id_idx on tenantry.users (current_organization_id) where current_organization_id is not null;
create trigger touch_updated_at before update on tenantry.users for each row execute function tenantry.touch_updated_at();

comment on column tenantry.users.blocked_until is 'Banned or locked at the identity provider: no access before this moment; infinity when it says no end.';
comment on table tenantry.users is 'People who sign in, across all tenants. Written by the sync only; roles are on organization_members.';
comment on column tenantry.users.clerk_id is 'The `sub` of the token.';
comment on column tenantry.users.email is 'Null for who signs in by phone or passkey. Not unique: events of an old and a new account of one address arrive in any order.';
comment on column tenantry.users.verified_email is 'The address that the identity provider said is verified; null, or another than email: that one is not. Domains of organizations go by it.';
comment on column tenantry.users.is_superadmin is 'Operator of the platform; means nothing inside a tenant.';
comment on column tenantry.users.current_organization_id is 'Where the user was last; a hint for the client, not a permission.';
comment on column tenantry.users.source_version is 'Clerk envelope timestamp in milliseconds of the last event applied; older events are skipped.';
comment on column tenantry.users.erased_at is 'Set: who the user was is erased, and nothing brings it back.';
comment on column tenantry.users.deleted_at is 'Set: the user cannot sign in; what they wrote stays theirs.';

-- An event that comes late, or once more, would bring back what was erased.
create function tenantry.keep_erased() returns trigger
    language plpgsql
    as $$
begin
    new.email := null;
    new.verified_email := null;
    new.name := old.name;
    new.avatar_url := null;
    new.deleted_at := old.deleted_at;
    new.erased_at := old.erased_at;
    return new;
end
$$;
comment on function tenantry.keep_erased() is 'Trigger: nothing about a person comes back to a row that was erased.';
revoke execute on function tenantry.keep_erased() from public;
create trigger keep_erased before update on tenantry.users for each row when (old.erased_at is not null) execute function tenantry.keep_erased();

-- What a person is called who published no name: never by an identifier, which they did not publish either.
create function tenantry.neutral_name(p_sub text) returns text
    language sql immutable strict parallel safe
    return 'Member ' || upper(left(encode(sha256(convert_to(p_sub, 'UTF8')), 'hex'), 4));
comment on function tenantry.neutral_name(text) is 'A name for who published none: `Member 3F9A`.';
revoke execute on function tenantry.neutral_name(text) from public;
grant execute on function tenantry.neutral_name(text) to tenantry_superadmin;

create table tenantry.custom_roles (
    id              uuid not null,
    organization_id uuid not null references tenantry.organizations (id),
    name            text not null check (char_length(name) between 1 and 100),
    description     text check (char_length(description) <= 500),
    actions         text[] not null check (cardinality(actions) <= 100),
    version         integer not null default 1 check (version > 0),
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    primary key (organization_id, id)
);

alter table tenantry.custom_roles enable row level security;
alter table tenantry.custom_roles force row level security;
create policy tenant on tenantry.custom_roles for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.custom_roles for all to tenantry_superadmin using (true) with check (true);
grant select, insert, update, delete on tenantry.custom_roles to tenantry_app;
grant all on tenantry.custom_roles to tenantry_superadmin;

create unique index custom_roles_name_key on tenantry.custom_roles (organization_id, lower(name));
create index custom_roles_created_at_idx on tenantry.custom_roles (organization_id, created_at, id);
create trigger touch_updated_at before update on tenantry.custom_roles for each row execute function tenantry.touch_updated_at();

comment on table tenantry.custom_roles is 'Roles that an organization made of the actions of the program.';
comment on column tenantry.custom_roles.actions is 'Actions as `viewer.permissions` names them; one that the program does not know counts for nothing.';
comment on column tenantry.custom_roles.version is 'Optimistic lock: every update adds one; a writer that brings an older number is refused.';

create table tenantry.organization_members (
    id              uuid not null,
    organization_id uuid not null references tenantry.organizations (id),
    user_id         uuid not null references tenantry.users (id),
    role            tenantry.member_role not null default 'MEMBER',
    promoted_from   tenantry.member_role,
    custom_role_id  uuid,
    clerk_membership_id text check (char_length(clerk_membership_id) between 1 and 255),
    waits_for_seat  boolean not null default false,
    source_version  bigint not null default 0,
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    deleted_at      timestamptz,
    primary key (organization_id, id),
    unique (organization_id, user_id),
    foreign key (organization_id, custom_role_id) references tenantry.custom_roles (organization_id, id)
);

alter table tenantry.organization_members enable row level security;
alter table tenantry.organization_members force row level security;
create policy tenant on tenantry.organization_members for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.organization_members for all to tenantry_superadmin using (true) with check (true);
-- No insert and no change of user_id: a membership makes a user row visible, so it is made by the sync and by
-- accepted invitations, both outside the tenant.
grant select, update (role, promoted_from, custom_role_id, deleted_at, updated_at) on tenantry.organization_members to tenantry_app;
grant all on tenantry.organization_members to tenantry_superadmin;

create index organization_members_created_at_idx on tenantry.organization_members (organization_id, created_at, id);
create index organization_members_user_id_idx on tenantry.organization_members (user_id);
create index organization_members_custom_role_id_idx on tenantry.organization_members (organization_id, custom_role_id) where custom_role_id is not null;
-- A seat that comes and goes by itself is no change of the member.
create trigger touch_updated_at before update on tenantry.organization_members for each row when (old.waits_for_seat = new.waits_for_seat) execute function tenantry.touch_updated_at();

-- Whoever says what a member is says all of it: the sync knows nothing of custom roles.
create function tenantry.end_custom_role() returns trigger
    language plpgsql
    as $$
begin
    if new.custom_role_id is not distinct from old.custom_role_id then
        new.custom_role_id := null;
    end if;
    return new;
end
$$;
comment on function tenantry.end_custom_role() is 'Trigger: a member who gets another role, or leaves, has no custom role any more.';
revoke execute on function tenantry.end_custom_role() from public;
create trigger end_custom_role before update of role, deleted_at on tenantry.organization_members for each row
    when (old.custom_role_id is not null and (old.role <> new.role or old.deleted_at is distinct from new.deleted_at))
    execute function tenantry.end_custom_role();

comment on column tenantry.organization_members.waits_for_seat is 'All seats are taken, so the member reads and changes nothing. Written by tenantry.settle_seats alone.';
comment on column tenantry.organization_members.custom_role_id is 'Set: what the member may do is what this role says, and role is VIEWER.';
comment on table tenantry.organization_members is 'Who belongs to which organization, and as what. One row per pair, also after leaving.';
comment on column tenantry.organization_members.promoted_from is 'Set: the sync made this member OWNER because the organization had none; this is the role the source gives. Taken back when the source names an owner.';
comment on column tenantry.organization_members.clerk_membership_id is 'Id of the membership at Clerk; a new one after leaving and joining again.';
comment on column tenantry.organization_members.source_version is 'Clerk envelope timestamp in milliseconds of the last event applied; older events are skipped.';
comment on column tenantry.organization_members.deleted_at is 'Set: no longer a member, the tombstone of the sync.';

create table tenantry.invitations (
    id              uuid not null,
    organization_id uuid not null references tenantry.organizations (id),
    email           text not null check (char_length(email) between 3 and 320),
    role            tenantry.member_role not null default 'MEMBER',
    custom_role_id  uuid,
    token_hash      bytea not null,
    invited_by      uuid references tenantry.users (id),
    clerk_invitation_id text check (char_length(clerk_invitation_id) between 1 and 255),
    mail_due_at     timestamptz,
    mail_attempts   integer not null default 0 check (mail_attempts >= 0),
    mail_token_hash bytea,
    mailed_at       timestamptz,
    mail_problem    text check (char_length(mail_problem) <= 500),
    expires_at      timestamptz not null,
    accepted_at     timestamptz,
    revoked_at      timestamptz,
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, token_hash),
    constraint invitations_clerk_invitation_id_key unique (organization_id, clerk_invitation_id),
    foreign key (organization_id, custom_role_id) references tenantry.custom_roles (organization_id, id) on delete set null (custom_role_id),
    check (custom_role_id is null or role = 'VIEWER'),
    check (accepted_at is null or revoked_at is null)
);

alter table tenantry.invitations enable row level security;
alter table tenantry.invitations force row level security;
create policy tenant on tenantry.invitations for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.invitations for all to tenantry_superadmin using (true) with check (true);
grant select (id, organization_id, email, role, custom_role_id, invited_by, clerk_invitation_id, mailed_at, mail_problem, expires_at, accepted_at, revoked_at, created_at, updated_at),
      insert, update on tenantry.invitations to tenantry_app;
grant all on tenantry.invitations to tenantry_superadmin;

create index invitations_created_at_idx on tenantry.invitations (organization_id, created_at, id);
create index invitations_email_idx on tenantry.invitations (organization_id, email, id);
create unique index invitations_pending_key on tenantry.invitations (organization_id, lower(email)) where accepted_at is null and revoked_at is null;
create index invitations_invited_by_idx on tenantry.invitations (organization_id, invited_by, created_at, id);
create index invitations_token_hash_idx on tenantry.invitations (token_hash);
create index invitations_mail_token_hash_idx on tenantry.invitations (mail_token_hash) where mail_token_hash is not null;
create index invitations_mail_due_at_idx on tenantry.invitations (mail_due_at) where mail_due_at is not null;
create trigger touch_updated_at before update on tenantry.invitations for each row execute function tenantry.touch_updated_at();

comment on table tenantry.invitations is 'Invitations by email; each works once.';
comment on column tenantry.invitations.token_hash is 'SHA-256 of the token in the link; the token is stored nowhere. The application role can write but not read it.';
comment on column tenantry.invitations.invited_by is 'User; null when it came from outside (sync, command).';
comment on column tenantry.invitations.clerk_invitation_id is 'Id of the invitation at Clerk, who sends and accepts it; null when it was made here.';
comment on column tenantry.invitations.custom_role_id is 'Set: whoever accepts gets this role, and role is VIEWER. A role that an open invitation gives is not deleted.';
comment on column tenantry.invitations.mail_due_at is 'When a worker is to mail it next; null: not at all.';
comment on column tenantry.invitations.mail_token_hash is 'SHA-256 of the token in the last mail: made when it is sent, so that no secret waits here.';
comment on column tenantry.invitations.mail_problem is 'What the mail server said when it did not take the last mail.';
comment on index tenantry.invitations_pending_key is 'One open invitation per address; an expired one is revoked before the next.';
comment on index tenantry.invitations_mail_token_hash_idx is 'As invitations_token_hash_idx.';
comment on index tenantry.invitations_mail_due_at_idx is 'What the workers are to mail, whoever it is of.';
comment on index tenantry.invitations_token_hash_idx is 'Who follows a link has no tenant yet: read by the superadmin role.';

create table tenantry.organization_domains (
    id              uuid not null,
    organization_id uuid not null references tenantry.organizations (id),
    domain          text not null check (domain ~ '^([a-z0-9](-*[a-z0-9])*\.)+[a-z0-9](-*[a-z0-9])*$' and char_length(domain) <= 253),
    enrollment      tenantry.domain_enrollment not null default 'REQUEST',
    role            tenantry.member_role not null default 'MEMBER' check (role in ('MEMBER', 'VIEWER')),
    created_by      uuid references tenantry.users (id),
    created_at      timestamptz not null default now(),
    primary key (organization_id, id),
    constraint organization_domains_domain_key unique (organization_id, domain)
);

alter table tenantry.organization_domains enable row level security;
alter table tenantry.organization_domains force row level security;
create policy tenant on tenantry.organization_domains for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.organization_domains for all to tenantry_superadmin using (true) with check (true);
grant select, insert, delete on tenantry.organization_domains to tenantry_app;
grant all on tenantry.organization_domains to tenantry_superadmin;

create index organization_domains_created_at_idx on tenantry.organization_domains (organization_id, created_at, id);
create index organization_domains_domain_idx on tenantry.organization_domains (domain);

comment on table tenantry.organization_domains is 'Domains at which whoever has a verified address may join the organization, or ask to. Several organizations may name one: each opens its own door only.';
comment on column tenantry.organization_domains.role is 'What whoever joins becomes.';

create table tenantry.membership_requests (
    id              uuid not null,
    organization_id uuid not null references tenantry.organizations (id),
    user_id         uuid not null references tenantry.users (id),
    created_at      timestamptz not null default now(),
    decided_at      timestamptz,
    decided_by      uuid references tenantry.users (id),
    is_accepted     boolean,
    primary key (organization_id, id),
    check ((decided_at is null) = (is_accepted is null))
);

alter table tenantry.membership_requests enable row level security;
alter table tenantry.membership_requests force row level security;
create policy tenant on tenantry.membership_requests for select to tenantry_app using (organization_id = tenantry.current_org());
create policy superadmin on tenantry.membership_requests for all to tenantry_superadmin using (true) with check (true);
grant select on tenantry.membership_requests to tenantry_app;
grant all on tenantry.membership_requests to tenantry_superadmin;

create index membership_requests_created_at_idx on tenantry.membership_requests (organization_id, created_at, id);
create unique index membership_requests_open_key on tenantry.membership_requests (organization_id, user_id) where decided_at is null;
create index membership_requests_user_id_idx on tenantry.membership_requests (user_id);

comment on table tenantry.membership_requests is 'Who asked to join an organization by the domain of their address, and what was decided.';
comment on index tenantry.membership_requests_open_key is 'Who has asked has asked.';

create table tenantry.support_accesses (
    id              uuid not null,
    organization_id uuid not null references tenantry.organizations (id),
    user_id         uuid not null references tenantry.users (id),
    reason          text not null check (char_length(reason) between 1 and 500),
    writes          boolean not null default false,
    actions         text[] not null check (cardinality(actions) <= 100),
    created_at      timestamptz not null default now(),
    expires_at      timestamptz not null,
    ended_at        timestamptz,
    primary key (organization_id, id)
);

alter table tenantry.support_accesses enable row level security;
alter table tenantry.support_accesses force row level security;
create policy tenant on tenantry.support_accesses for select to tenantry_app
    using (organization_id = tenantry.current_org());
create policy superadmin on tenantry.support_accesses for all to tenantry_superadmin using (true) with check (true);
grant select on tenantry.support_accesses to tenantry_app;
grant all on tenantry.support_accesses to tenantry_superadmin;

create index support_accesses_created_at_idx on tenantry.support_accesses (organization_id, created_at, id);
create index support_accesses_user_id_idx on tenantry.support_accesses (user_id, expires_at);

comment on table tenantry.support_accesses is 'When operators of the platform looked into an organization, and why: for its members to see. enter_tenant asks here when a superadmin is no member.';
comment on column tenantry.support_accesses.actions is 'What it allows: the labels of actions.';

create table tenantry.api_keys (
    id              uuid not null,
    organization_id uuid not null references tenantry.organizations (id),
    name            text not null check (char_length(name) between 1 and 200),
    prefix          text not null check (char_length(prefix) between 4 and 32),
    key_hash        bytea not null,
    scopes          text[] not null default '{}' check (cardinality(scopes) <= 100),
    allowed_networks cidr[] not null default '{}' check (cardinality(allowed_networks) <= 100),
    rotated_from    uuid,
    expires_at      timestamptz,
    last_used_at    timestamptz,
    revoked_at      timestamptz,
    created_by      uuid references tenantry.users (id),
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, prefix),
    unique (organization_id, rotated_from),
    foreign key (organization_id, rotated_from) references tenantry.api_keys (organization_id, id)
);

alter table tenantry.api_keys enable row level security;
alter table tenantry.api_keys force row level security;
create policy tenant on tenantry.api_keys for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.api_keys for all to tenantry_superadmin using (true) with check (true);
grant select (id, organization_id, name, prefix, scopes, allowed_networks, rotated_from, expires_at, last_used_at, revoked_at, created_by, created_at, updated_at),
      insert, update (name, expires_at, last_used_at, revoked_at, updated_at) on tenantry.api_keys to tenantry_app;
grant all on tenantry.api_keys to tenantry_superadmin;

create index api_keys_created_at_idx on tenantry.api_keys (organization_id, created_at, id);
create index api_keys_name_idx on tenantry.api_keys (organization_id, name, id);
create index api_keys_created_by_idx on tenantry.api_keys (organization_id, created_by, created_at, id);
create index api_keys_key_hash_idx on tenantry.api_keys (key_hash);
create trigger touch_updated_at before update on tenantry.api_keys for each row execute function tenantry.touch_updated_at();

comment on table tenantry.api_keys is 'Keys for programs. The tenant follows from the key.';
comment on column tenantry.api_keys.prefix is 'The readable beginning of the key, shown in lists.';
comment on column tenantry.api_keys.key_hash is 'SHA-256 of the whole key; the key is shown once and stored nowhere. The application role can write but not read it.';
comment on column tenantry.api_keys.scopes is 'The actions that the key may take, as `viewer.permissions` names them; what the program does not know counts for nothing.';
comment on column tenantry.api_keys.allowed_networks is 'Where requests with the key may come from; empty: anywhere.';
comment on column tenantry.api_keys.rotated_from is 'The key that this one takes the place of; that one expires when the overlap ends. A key has one successor.';
comment on column tenantry.api_keys.expires_at is 'Null: never.';
comment on column tenantry.api_keys.last_used_at is 'Written at most once a minute per key.';
comment on index tenantry.api_keys_key_hash_idx is 'Who brings a key has no tenant yet: read by the superadmin role.';

create table tenantry.ended_sessions (
    session_id text primary key check (char_length(session_id) between 1 and 255),
    ended_at   timestamptz not null default now()
);

alter table tenantry.ended_sessions enable row level security;
alter table tenantry.ended_sessions force row level security;
create policy superadmin on tenantry.ended_sessions for all to tenantry_superadmin using (true) with check (true);
grant all on tenantry.ended_sessions to tenantry_superadmin;

create index ended_sessions_ended_at_idx on tenantry.ended_sessions (ended_at);

comment on table tenantry.ended_sessions is 'Sessions that the identity provider has ended before their tokens do. Global: a session is of a user, not of an organization.';

-- The two doors between a token and the database. They look across tenants, so they run with the rights of
-- tenantry_superadmin; the application role may execute them and gets back nothing but the caller's own memberships.
-- The SET clause costs about 2 µs of 27 per call (PostgreSQL 15) and keeps the caller's search_path out. What set_config
-- sets in here for other settings lasts to the end of the transaction all the same.

create function tenantry.enter_tenant(p_sub text, p_session text, p_org_id uuid, p_org_clerk_id text, p_org_slug text)
    returns table (user_id uuid, organization_id uuid, role tenantry.member_role, is_superadmin boolean, actions text, is_suspended boolean, waits_for_seat boolean)
    language plpgsql volatile security definer rows 1
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
declare
    ignored text;
    custom uuid;
begin
    if pg_catalog.num_nonnulls(p_org_id, p_org_clerk_id, p_org_slug) <> 1 then
        raise exception 'enter_tenant takes exactly one of id, Clerk id and slug' using errcode = 'invalid_parameter_value';
    end if;
    -- One statement per kind of key, so that each keeps its own plan.
    if p_org_id is not null then
        select u.id, m.organization_id, m.role, u.is_superadmin, m.custom_role_id, o.suspended_at is not null, m.waits_for_seat
          into enter_tenant.user_id, enter_tenant.organization_id, enter_tenant.role, enter_tenant.is_superadmin, custom, enter_tenant.is_suspended, enter_tenant.waits_for_seat
          from tenantry.users u
          join tenantry.organizations o on o.id = p_org_id and o.deleted_at is null
          join tenantry.organization_members m on m.organization_id = o.id and m.user_id = u.id and m.deleted_at is null
         where u.clerk_id = p_sub and u.deleted_at is null and (u.blocked_until is null or u.blocked_until <= now())
           and (p_session is null or not exists (select from tenantry.ended_sessions e where e.session_id = p_session));
    elsif p_org_clerk_id is not null then
        select u.id, m.organization_id, m.role, u.is_superadmin, m.custom_role_id, o.suspended_at is not null, m.waits_for_seat
          into enter_tenant.user_id, enter_tenant.organization_id, enter_tenant.role, enter_tenant.is_superadmin, custom, enter_tenant.is_suspended, enter_tenant.waits_for_seat
          from tenantry.users u
          join tenantry.organizations o on o.clerk_org_id = p_org_clerk_id and o.deleted_at is null
          join tenantry.organization_members m on m.organization_id = o.id and m.user_id = u.id and m.deleted_at is null
         where u.clerk_id = p_sub and u.deleted_at is null and (u.blocked_until is null or u.blocked_until <= now())
           and (p_session is null or not exists (select from tenantry.ended_sessions e where e.session_id = p_session));
    else
        select u.id, m.organization_id, m.role, u.is_superadmin, m.custom_role_id, o.suspended_at is not null, m.waits_for_seat
          into enter_tenant.user_id, enter_tenant.organization_id, enter_tenant.role, enter_tenant.is_superadmin, custom, enter_tenant.is_suspended, enter_tenant.waits_for_seat
          from tenantry.users u
          join tenantry.organizations o on o.slug = p_org_slug and o.deleted_at is null
          join tenantry.organization_members m on m.organization_id = o.id and m.user_id = u.id and m.deleted_at is null
         where u.clerk_id = p_sub and u.deleted_at is null and (u.blocked_until is null or u.blocked_until <= now())
           and (p_session is null or not exists (select from tenantry.ended_sessions e where e.session_id = p_session));
    end if;
    -- Without a seat, members read.
    if enter_tenant.waits_for_seat then
        enter_tenant.role := 'VIEWER';
        custom := null;
    end if;
    -- Nobody's member: an operator may have been let in for a time.
    if enter_tenant.user_id is null then
        select u.id, a.organization_id, 'VIEWER', u.is_superadmin, pg_catalog.array_to_string(a.actions, ','), o.suspended_at is not null, false
          into enter_tenant.user_id, enter_tenant.organization_id, enter_tenant.role, enter_tenant.is_superadmin, enter_tenant.actions, enter_tenant.is_suspended, enter_tenant.waits_for_seat
          from tenantry.users u
          join tenantry.support_accesses a on a.user_id = u.id and a.ended_at is null and a.expires_at > now()
          join tenantry.organizations o on o.id = a.organization_id and o.deleted_at is null
           and (o.id = p_org_id or o.clerk_org_id = p_org_clerk_id or o.slug = p_org_slug)
         where u.clerk_id = p_sub and u.is_superadmin and u.deleted_at is null and (u.blocked_until is null or u.blocked_until <= now())
           and (p_session is null or not exists (select from tenantry.ended_sessions e where e.session_id = p_session))
         limit 1;
    end if;
    -- Nulls, when nothing was found, leave ''.
    -- Assignments, because perform would start the executor for each.
    ignored := pg_catalog.set_config('app.current_org_id', enter_tenant.organization_id::text, true);
    ignored := pg_catalog.set_config('app.current_user_id', enter_tenant.user_id::text, true);
    ignored := pg_catalog.set_config('app.is_superadmin', 'false', true);
    if enter_tenant.user_id is not null then
        if custom is not null then
            select pg_catalog.array_to_string(r.actions, ',') into enter_tenant.actions
              from tenantry.custom_roles r where r.organization_id = enter_tenant.organization_id and r.id = custom;
        end if;
        return next;
    end if;
end
$$;
comment on function tenantry.enter_tenant(text, text, uuid, text, text) is
    'Opens a tenant for this transaction: sets app.current_org_id, app.current_user_id and app.is_superadmin (always false) and answers the membership, with the actions of a custom role, separated by commas. No row, and empty settings, when the user, the organization or the membership is not there, the user is blocked or the session has ended.';

-- The same for a program: the organization is the key's, and whichever the request names must be it.
create function tenantry.enter_by_key(p_hash bytea, p_ip inet, p_now timestamptz, p_org_id uuid, p_org_clerk_id text, p_org_slug text)
    returns table (api_key_id uuid, organization_id uuid, actions text, is_fresh boolean, is_suspended boolean)
    language plpgsql volatile security definer rows 1
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
declare
    ignored text;
begin
    select k.id, k.organization_id, array_to_string(k.scopes, ','), coalesce(k.last_used_at > p_now - interval '1 minute', false), o.suspended_at is not null
      into enter_by_key.api_key_id, enter_by_key.organization_id, enter_by_key.actions, enter_by_key.is_fresh, enter_by_key.is_suspended
      from tenantry.api_keys k join tenantry.organizations o on o.id = k.organization_id and o.deleted_at is null
     where k.key_hash = p_hash and k.revoked_at is null and (k.expires_at is null or k.expires_at > p_now)
       and (cardinality(k.allowed_networks) = 0 or p_ip <<= any (k.allowed_networks))
       and (p_org_id is null or p_org_id = o.id)
       and (p_org_clerk_id is null or p_org_clerk_id = o.clerk_org_id)
       and (p_org_slug is null or p_org_slug = o.slug);
    ignored := pg_catalog.set_config('app.current_org_id', enter_by_key.organization_id::text, true);
    ignored := pg_catalog.set_config('app.current_user_id', '', true);
    ignored := pg_catalog.set_config('app.is_superadmin', 'false', true);
    if enter_by_key.api_key_id is not null then
        return next;
    end if;
end
$$;
comment on function tenantry.enter_by_key(bytea, inet, timestamptz, uuid, text, text) is
    'Opens the tenant of an API key for this transaction, and answers its scopes, separated by commas, and whether its use was noted within a minute. No row, and empty settings, for a key that is not there, has ended, is used from elsewhere, or is another organization''s.';

-- Why a key opens nothing: whoever has the whole of it may know.
create function tenantry.key_standing(p_hash bytea, p_ip inet, p_now timestamptz) returns text
    language sql stable security definer
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
        select case
                 when k.id is null or o.deleted_at is not null then 'UNKNOWN'
                 when k.revoked_at is not null then 'REVOKED'
                 when k.expires_at <= p_now then 'TOO_LATE'
                 when cardinality(k.allowed_networks) > 0 and (p_ip <<= any (k.allowed_networks)) is not true then 'ADDRESS'
                 else 'GOOD'
               end
          from (select) one
          left join (tenantry.api_keys k join tenantry.organizations o on o.id = k.organization_id) on k.key_hash = p_hash
    $$;
comment on function tenantry.key_standing(bytea, inet, timestamptz) is
    'Of an API key: GOOD, UNKNOWN, REVOKED, TOO_LATE or ADDRESS (not from there).';

create function tenantry.viewer(p_sub text, p_session text)
    returns table (user_id uuid, email text, name text, avatar_url text, is_superadmin boolean, current_organization_id uuid,
                   organization_id uuid, organization_name text, organization_slug text, clerk_org_id text, role tenantry.member_role)
    language sql stable security definer rows 5
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
        select u.id, u.email, u.name, u.avatar_url, u.is_superadmin, u.current_organization_id,
               m.id, m.name, m.slug, m.clerk_org_id, m.role
          from tenantry.users u
          left join (select om.user_id, om.role, o.id, o.name, o.slug, o.clerk_org_id
                       from tenantry.organization_members om
                       join tenantry.organizations o on o.id = om.organization_id and o.deleted_at is null
                      where om.deleted_at is null) m on m.user_id = u.id
         where u.clerk_id = p_sub and u.deleted_at is null and (u.blocked_until is null or u.blocked_until <= now())
           and (p_session is null or not exists (select from tenantry.ended_sessions e where e.session_id = p_session))
         order by m.name, m.id
    $$;
comment on function tenantry.viewer(text, text) is
    'The user behind a token with every living membership, by name of the organization; one row with nulls for a user without any, no row for an unknown or blocked user or a session that has ended.';

-- The third door: who follows an invitation has no tenant yet.
create function tenantry.accept_invitation(p_sub text, p_session text, p_token_hash bytea, p_member_id uuid, p_now timestamptz)
    returns table (outcome text, invitation_id uuid, user_id uuid, organization_id uuid, role tenantry.member_role, is_superadmin boolean,
                   organization_name text, organization_slug text, clerk_org_id text)
    language plpgsql volatile security definer rows 1
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
declare
    viewer record;
    found_invitation record;
    ignored text;
begin
    select u.id, u.email, u.is_superadmin into viewer from tenantry.users u
     where u.clerk_id = p_sub and u.deleted_at is null and (u.blocked_until is null or u.blocked_until <= now())
       and (p_session is null or not exists (select from tenantry.ended_sessions e where e.session_id = p_session));
    if viewer.id is null then
        outcome := 'NO_ACCOUNT'; return next; return;
    end if;
    -- The organization first, as everywhere: whoever changes its members holds this lock.
    perform from tenantry.organizations o
      where o.id = (select i.organization_id from tenantry.invitations i where i.token_hash = p_token_hash or i.mail_token_hash = p_token_hash) for update;
    select i.*, o.name, o.slug, o.clerk_org_id into found_invitation
      from tenantry.invitations i join tenantry.organizations o on o.id = i.organization_id and o.deleted_at is null
     where (i.token_hash = p_token_hash or i.mail_token_hash = p_token_hash) and i.clerk_invitation_id is null for update of i;
    -- A token in the wrong hands tells nothing, not even that it is one.
    if found_invitation.id is null or viewer.email is null or lower(found_invitation.email) <> lower(viewer.email) then
        outcome := 'NOT_FOUND'; return next; return;
    elsif found_invitation.accepted_at is not null then
        outcome := 'ACCEPTED'; return next; return;
    elsif found_invitation.revoked_at is not null then
        outcome := 'REVOKED'; return next; return;
    elsif found_invitation.expires_at <= p_now then
        outcome := 'TOO_LATE'; return next; return;
    elsif exists (select from tenantry.organization_members m
                   where m.organization_id = found_invitation.organization_id and m.user_id = viewer.id and m.deleted_at is null) then
        outcome := 'MEMBER'; return next; return;
    elsif (found_invitation.role <> 'VIEWER' or found_invitation.custom_role_id is not null) and not tenantry.has_seat(found_invitation.organization_id) then
        outcome := 'FULL'; return next; return;
    end if;
    insert into tenantry.organization_members as m (organization_id, id, user_id, role, custom_role_id, created_at)
    values (found_invitation.organization_id, p_member_id, viewer.id, found_invitation.role, found_invitation.custom_role_id, p_now)
    on conflict on constraint organization_members_organization_id_user_id_key
       do update set role = excluded.role, custom_role_id = excluded.custom_role_id, promoted_from = null, clerk_membership_id = null, created_at = excluded.created_at, deleted_at = null;
    update tenantry.invitations i set accepted_at = p_now
     where i.organization_id = found_invitation.organization_id and i.id = found_invitation.id;
    update tenantry.users u set current_organization_id = found_invitation.organization_id
     where u.id = viewer.id and u.current_organization_id is null;
    ignored := pg_catalog.set_config('app.current_org_id', found_invitation.organization_id::text, true);
    ignored := pg_catalog.set_config('app.current_user_id', viewer.id::text, true);
    ignored := pg_catalog.set_config('app.is_superadmin', 'false', true);
    outcome := 'JOINED'; invitation_id := found_invitation.id; user_id := viewer.id; organization_id := found_invitation.organization_id;
    role := found_invitation.role; is_superadmin := viewer.is_superadmin;
    organization_name := found_invitation.name; organization_slug := found_invitation.slug; clerk_org_id := found_invitation.clerk_org_id;
    return next;
end
$$;
comment on function tenantry.accept_invitation(text, text, bytea, uuid, timestamptz) is
    'Makes the bearer of a token a member of the organization that invited their address, and opens it for this transaction. JOINED, or why not: NO_ACCOUNT, NOT_FOUND, ACCEPTED, REVOKED, TOO_LATE, MEMBER, FULL.';

-- A slug that is taken gets a number: acme, acme-2, acme-3; after twenty of them a number by chance, so that the ten-thousandth
-- of a name does not try all the others.
create function tenantry.free_slug(p_slug text) returns text
    language plpgsql volatile
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
declare
    wanted text := p_slug;
begin
    for attempt in 1..40 loop
        if not exists (select from tenantry.organizations o where o.slug = wanted) then
            return wanted;
        end if;
        wanted := rtrim(left(p_slug, 55), '-') || '-'
               || case when attempt < 20 then attempt + 1 else trunc(21 + random() * power(10, attempt / 5))::int end;
    end loop;
    return null;
end
$$;
comment on function tenantry.free_slug(text) is
    'The slug, or with a number behind it the first that no organization has, as far as this transaction sees; null when forty were taken.';

create function tenantry.insert_organization(p_id uuid, p_name text, p_slug text, p_is_personal boolean, p_now timestamptz) returns text
    language plpgsql volatile
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
declare
    wanted text;
begin
    -- Others take slugs at the same time: each time one does, the next is tried.
    for attempt in 1..100 loop
        wanted := tenantry.free_slug(p_slug);
        exit when wanted is null;
        insert into tenantry.organizations (id, name, slug, is_personal, source_version, created_at)
        values (p_id, p_name, wanted, p_is_personal, case when p_is_personal then 1 else 0 end, p_now)
            on conflict on constraint organizations_slug_key do nothing;
        if found then
            return wanted;
        end if;
    end loop;
    return null;
end
$$;
comment on function tenantry.insert_organization(uuid, text, text, boolean, timestamptz) is
    'Makes an organization with the wanted slug, or with a number behind it when that is taken; answers the slug, or null when none was to be had.';

-- The fourth door: whoever makes an organization has none yet.
create function tenantry.create_organization(p_sub text, p_session text, p_id uuid, p_member_id uuid, p_name text, p_slug text, p_now timestamptz)
    returns table (outcome text, user_id uuid, organization_id uuid, role tenantry.member_role, is_superadmin boolean, slug text)
    language plpgsql volatile security definer rows 1
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
declare
    viewer record;
    wanted text;
    ignored text;
begin
    select u.id, u.is_superadmin into viewer from tenantry.users u
     where u.clerk_id = p_sub and u.deleted_at is null and (u.blocked_until is null or u.blocked_until <= now())
       and (p_session is null or not exists (select from tenantry.ended_sessions e where e.session_id = p_session))
       for update;
    if viewer.id is null then
        outcome := 'NO_ACCOUNT'; return next; return;
    elsif (select count(*) from tenantry.organization_members m join tenantry.organizations o on o.id = m.organization_id
            where m.user_id = viewer.id and m.role = 'OWNER' and m.deleted_at is null and o.deleted_at is null) >= 100 then
        outcome := 'TOO_MANY'; return next; return;
    end if;
    wanted := tenantry.insert_organization(p_id, p_name, p_slug, false, p_now);
    if wanted is null then
        outcome := 'TAKEN'; return next; return;
    end if;
    insert into tenantry.organization_members (organization_id, id, user_id, role, created_at) values (p_id, p_member_id, viewer.id, 'OWNER', p_now);
    update tenantry.users u set current_organization_id = p_id where u.id = viewer.id and u.current_organization_id is null;
    ignored := pg_catalog.set_config('app.current_org_id', p_id::text, true);
    ignored := pg_catalog.set_config('app.current_user_id', viewer.id::text, true);
    ignored := pg_catalog.set_config('app.is_superadmin', 'false', true);
    outcome := 'JOINED'; user_id := viewer.id; organization_id := p_id; role := 'OWNER'; is_superadmin := viewer.is_superadmin; slug := wanted;
    return next;
end
$$;
comment on function tenantry.create_organization(text, text, uuid, uuid, text, text, timestamptz) is
    'Makes an organization that the bearer of a token owns, and opens it for this transaction. JOINED, or why not: NO_ACCOUNT, TOO_MANY (100 organizations), TAKEN.';

-- The sixth door: a deleted organization has no other.
create function tenantry.restore_organization(p_sub text, p_session text, p_id uuid, p_now timestamptz)
    returns table (outcome text, user_id uuid, organization_id uuid, role tenantry.member_role, is_superadmin boolean,
                   organization_name text, organization_slug text, clerk_org_id text)
    language plpgsql volatile security definer rows 1
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
declare
    owned record;
    ignored text;
begin
    if not exists (select from tenantry.viewer(p_sub, p_session)) then
        outcome := 'NO_ACCOUNT'; return next; return;
    end if;
    select o.id, o.name, o.slug, o.clerk_org_id, o.purge_at, u.id as user_id, u.is_superadmin into owned
      from tenantry.organizations o
      join tenantry.organization_members m on m.organization_id = o.id and m.role = 'OWNER' and m.deleted_at is null
      join tenantry.users u on u.id = m.user_id and u.clerk_id = p_sub
     where o.id = p_id and o.deleted_at is not null and o.purge_at is not null for update of o;
    if owned.id is null then
        outcome := 'NOT_FOUND'; return next; return;
    elsif owned.purge_at <= p_now then
        outcome := 'TOO_LATE'; return next; return;
    end if;
    update tenantry.organizations o set deleted_at = null, purge_at = null where o.id = owned.id;
    ignored := pg_catalog.set_config('app.current_org_id', owned.id::text, true);
    ignored := pg_catalog.set_config('app.current_user_id', owned.user_id::text, true);
    ignored := pg_catalog.set_config('app.is_superadmin', 'false', true);
    outcome := 'JOINED'; user_id := owned.user_id; organization_id := owned.id; role := 'OWNER'; is_superadmin := owned.is_superadmin;
    organization_name := owned.name; organization_slug := owned.slug; clerk_org_id := owned.clerk_org_id;
    return next;
end
$$;
comment on function tenantry.restore_organization(text, text, uuid, timestamptz) is
    'Takes back that an organization was deleted, for one of its owners, and opens it for this transaction. JOINED, or why not: NO_ACCOUNT, NOT_FOUND, TOO_LATE (its rows are being removed).';

create function tenantry.restorable_organizations(p_sub text, p_session text, p_now timestamptz)
    returns table (id uuid, name text, slug text, purge_at timestamptz)
    language sql stable security definer rows 5
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
        select o.id, o.name, o.slug, o.purge_at
          from tenantry.users u
          join tenantry.organization_members m on m.user_id = u.id and m.role = 'OWNER' and m.deleted_at is null
          join tenantry.organizations o on o.id = m.organization_id and o.deleted_at is not null and o.purge_at > p_now
         where u.clerk_id = p_sub and exists (select from tenantry.viewer(p_sub, p_session))
         order by o.purge_at, o.id
    $$;
comment on function tenantry.restorable_organizations(text, text, timestamptz) is
    'The deleted organizations that the bearer of a token owns and may still restore.';

-- At which domain somebody has an address that they have proven: not one that only an adopted row has.
create function tenantry.verified_domain(p_user_id uuid) returns text
    language sql stable security definer
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
        select substring(lower(u.email) from '[^@]+$') from tenantry.users u
         where u.id = p_user_id and u.email = u.verified_email and u.deleted_at is null
    $$;
comment on function tenantry.verified_domain(uuid) is 'The domain of a user''s address if they have proven it; null otherwise.';

create function tenantry.verified_domain_of_viewer() returns text
    language sql stable security definer
    set search_path = pg_catalog, tenantry, pg_temp
    as $$ select tenantry.verified_domain(nullif(current_setting('app.current_user_id', true), '')::uuid) $$;
comment on function tenantry.verified_domain_of_viewer() is 'verified_domain of whoever this transaction works for.';

create function tenantry.joinable_organizations(p_sub text, p_session text, p_clerk_decides boolean)
    returns table (id uuid, name text, slug text, enrollment tenantry.domain_enrollment, is_requested boolean)
    language sql stable security definer rows 5
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
        select o.id, o.name, o.slug,
               case when exists (select from tenantry.organization_members m where m.organization_id = o.id and m.user_id = u.id) then 'REQUEST' else d.enrollment end,
               exists (select from tenantry.membership_requests r where r.organization_id = o.id and r.user_id = u.id and r.decided_at is null)
          from tenantry.users u
          join tenantry.organization_domains d on d.domain = tenantry.verified_domain(u.id)
          join tenantry.organizations o on o.id = d.organization_id and o.deleted_at is null and o.suspended_at is null
           and (o.clerk_org_id is null or not p_clerk_decides)
         where u.clerk_id = p_sub and exists (select from tenantry.viewer(p_sub, p_session))
           and not exists (select from tenantry.organization_members m where m.organization_id = o.id and m.user_id = u.id and m.deleted_at is null)
         order by o.name, o.id limit 100
    $$;
comment on function tenantry.joinable_organizations(text, text, boolean) is 'The organizations that the bearer of a token may join, or ask to, by the domain of their address.';

-- Whether one more member has a seat, in a transaction that holds the organization. In plpgsql, because what it counts with comes
-- in a later migration.
create function tenantry.has_seat(p_organization_id uuid) returns boolean
    language plpgsql volatile security definer
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
begin
    return coalesce(tenantry.seat_limit(p_organization_id)
                        > (select count(*) from tenantry.organization_members m
                            where m.organization_id = p_organization_id and m.deleted_at is null and (m.role <> 'VIEWER' or m.custom_role_id is not null)), true);
end
$$;
comment on function tenantry.has_seat(uuid) is 'Whether there is a seat for one more member who does more than read.';

create function tenantry.has_seat_here() returns boolean
    language sql volatile security definer
    set search_path = pg_catalog, tenantry, pg_temp
    as $$ select tenantry.has_seat(tenantry.current_org()) $$;
comment on function tenantry.has_seat_here() is 'has_seat of the organization of this transaction.';

-- Another door: who joins by the domain of their address has no tenant yet.
create function tenantry.join_organization(p_sub text, p_session text, p_organization_id uuid, p_member_id uuid, p_request_id uuid,
                                           p_clerk_decides boolean, p_now timestamptz)
    returns table (outcome text, user_id uuid, organization_id uuid, role tenantry.member_role, is_superadmin boolean,
                   organization_name text, organization_slug text, clerk_org_id text)
    language plpgsql volatile security definer rows 1
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
declare
    viewer record;
    found record;
    ignored text;
begin
    select u.id, u.is_superadmin into viewer from tenantry.users u
     where u.clerk_id = p_sub and u.deleted_at is null and (u.blocked_until is null or u.blocked_until <= now())
       and (p_session is null or not exists (select from tenantry.ended_sessions e where e.session_id = p_session));
    if viewer.id is null then
        outcome := 'NO_ACCOUNT'; return next; return;
    end if;
    -- The organization first, as everywhere: whoever changes its members holds this lock.
    perform from tenantry.organizations o where o.id = p_organization_id for update;
    select o.id, o.name, o.slug, o.clerk_org_id, d.enrollment, d.role into found
      from tenantry.organizations o
      join tenantry.organization_domains d on d.organization_id = o.id and d.domain = tenantry.verified_domain(viewer.id)
     where o.id = p_organization_id and o.deleted_at is null and o.suspended_at is null and (o.clerk_org_id is null or not p_clerk_decides);
    -- Whoever has no address there is not told that there is such an organization.
    if found.id is null then
        outcome := 'NOT_FOUND'; return next; return;
    elsif exists (select from tenantry.organization_members m where m.organization_id = found.id and m.user_id = viewer.id and m.deleted_at is null) then
        outcome := 'MEMBER'; return next; return;
    -- Whoever was here before, and left or was removed, does not come back with another role than they had: somebody decides.
    elsif found.enrollment = 'REQUEST'
          or exists (select from tenantry.organization_members m where m.organization_id = found.id and m.user_id = viewer.id) then
        if exists (select from tenantry.membership_requests r where r.organization_id = found.id and r.user_id = viewer.id
                      and not r.is_accepted and r.decided_at > p_now - interval '30 days') then
            outcome := 'DECLINED'; return next; return;
        end if;
        -- Under the lock: who has asked has asked.
        if not exists (select from tenantry.membership_requests r where r.organization_id = found.id and r.user_id = viewer.id and r.decided_at is null) then
            insert into tenantry.membership_requests (organization_id, id, user_id, created_at) values (found.id, p_request_id, viewer.id, p_now);
            insert into tenantry.audit_logs (organization_id, id, user_id, action, resource_type, resource_id, created_at)
            values (found.id, gen_random_uuid(), viewer.id, 'membership_request.create', 'MembershipRequest', p_request_id, p_now);
        end if;
        outcome := 'REQUESTED'; return next; return;
    elsif found.role <> 'VIEWER' and not tenantry.has_seat(found.id) then
        outcome := 'FULL'; return next; return;
    end if;
    insert into tenantry.organization_members as m (organization_id, id, user_id, role, created_at)
    values (found.id, p_member_id, viewer.id, found.role, p_now);
    update tenantry.users u set current_organization_id = found.id where u.id = viewer.id and u.current_organization_id is null;
    ignored := pg_catalog.set_config('app.current_org_id', found.id::text, true);
    ignored := pg_catalog.set_config('app.current_user_id', viewer.id::text, true);
    ignored := pg_catalog.set_config('app.is_superadmin', 'false', true);
    outcome := 'JOINED'; user_id := viewer.id; organization_id := found.id; role := found.role; is_superadmin := viewer.is_superadmin;
    organization_name := found.name; organization_slug := found.slug; clerk_org_id := found.clerk_org_id;
    return next;
end
$$;
comment on function tenantry.join_organization(text, text, uuid, uuid, uuid, boolean, timestamptz) is
    'Makes the bearer of a token a member of an organization that has named the domain of their address, or asks it. Says what came of it.';

-- In an open tenant: the members' table takes no new rows from the application role but by this door.
create function tenantry.decide_membership_request(p_id uuid, p_member_id uuid, p_role tenantry.member_role, p_now timestamptz) returns text
    language plpgsql volatile security definer
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
declare
    asked record;
begin
    select r.user_id, r.decided_at into asked from tenantry.membership_requests r
     where r.organization_id = tenantry.current_org() and r.id = p_id for update;
    if asked.user_id is null then
        return 'NOT_FOUND';
    elsif asked.decided_at is not null then
        return 'DECIDED';
    end if;
    if p_role is not null then
        if p_role not in ('MEMBER', 'VIEWER') then
            raise exception 'a request gives MEMBER or VIEWER' using errcode = 'invalid_parameter_value';
        elsif exists (select from tenantry.organization_members m where m.organization_id = tenantry.current_org() and m.user_id = asked.user_id and m.deleted_at is null) then
            return 'MEMBER';
        elsif not exists (select from tenantry.users u where u.id = asked.user_id and u.deleted_at is null) then
            return 'NOT_FOUND';
        elsif p_role <> 'VIEWER' and not tenantry.has_seat(tenantry.current_org()) then
            return 'FULL';
        end if;
        insert into tenantry.organization_members as m (organization_id, id, user_id, role, created_at)
        values (tenantry.current_org(), p_member_id, asked.user_id, p_role, p_now)
        on conflict on constraint organization_members_organization_id_user_id_key
           do update set role = excluded.role, custom_role_id = null, promoted_from = null, clerk_membership_id = null, created_at = excluded.created_at, deleted_at = null;
    end if;
    update tenantry.membership_requests r set decided_at = p_now, is_accepted = p_role is not null,
           decided_by = nullif(current_setting('app.current_user_id', true), '')::uuid
     where r.organization_id = tenantry.current_org() and r.id = p_id;
    return 'DONE';
end
$$;
comment on function tenantry.decide_membership_request(uuid, uuid, tenantry.member_role, timestamptz) is
    'Accepts (with a role) or declines (without) a request of the organization of this transaction. Says what came of it.';

-- In an open tenant: the organization of the transaction becomes the one where its viewer works. The lock makes a removal
-- at the same moment wait, whose trigger then forgets it again, or be waited for.
create function tenantry.switch_organization() returns boolean
    language plpgsql volatile security definer
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
begin
    update tenantry.users u set current_organization_id = tenantry.current_org()
     where u.id = nullif(current_setting('app.current_user_id', true), '')::uuid
       and exists (select from tenantry.organization_members m
                    where m.organization_id = tenantry.current_org() and m.user_id = u.id and m.deleted_at is null
                      for share);
    return found;
end
$$;
comment on function tenantry.switch_organization() is
    'Remembers the organization of this transaction as the one where its viewer works; false, and nothing, for whoever is no member.';

-- Whoever leaves works there no more.
create function tenantry.forget_current_organization() returns trigger
    language plpgsql security definer
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
begin
    update tenantry.users set current_organization_id = null where id = new.user_id and current_organization_id = new.organization_id;
    return null;
end
$$;
comment on function tenantry.forget_current_organization() is 'A user''s current organization is one of theirs.';
create trigger forget_current_organization after update of deleted_at on tenantry.organization_members
    for each row when (old.deleted_at is null and new.deleted_at is not null) execute function tenantry.forget_current_organization();

revoke execute on function tenantry.enter_tenant(text, text, uuid, text, text), tenantry.viewer(text, text),
    tenantry.restore_organization(text, text, uuid, timestamptz), tenantry.restorable_organizations(text, text, timestamptz),
    tenantry.enter_by_key(bytea, inet, timestamptz, uuid, text, text), tenantry.key_standing(bytea, inet, timestamptz),
    tenantry.accept_invitation(text, text, bytea, uuid, timestamptz), tenantry.create_organization(text, text, uuid, uuid, text, text, timestamptz),
    tenantry.switch_organization(), tenantry.forget_current_organization(), tenantry.verified_domain(uuid), tenantry.verified_domain_of_viewer(),
    tenantry.joinable_organizations(text, text, boolean), tenantry.has_seat(uuid), tenantry.has_seat_here(), tenantry.decide_membership_request(uuid, uuid, tenantry.member_role, timestamptz),
    tenantry.join_organization(text, text, uuid, uuid, uuid, boolean, timestamptz),
    tenantry.free_slug(text), tenantry.insert_organization(uuid, text, text, boolean, timestamptz) from public;
-- The doors call these with their owner's rights.
grant execute on function tenantry.verified_domain(uuid), tenantry.has_seat(uuid), tenantry.free_slug(text), tenantry.insert_organization(uuid, text, text, boolean, timestamptz) to tenantry_superadmin;
grant execute on function tenantry.enter_tenant(text, text, uuid, text, text), tenantry.viewer(text, text),
    tenantry.restore_organization(text, text, uuid, timestamptz), tenantry.restorable_organizations(text, text, timestamptz),
    tenantry.enter_by_key(bytea, inet, timestamptz, uuid, text, text), tenantry.key_standing(bytea, inet, timestamptz),
    tenantry.accept_invitation(text, text, bytea, uuid, timestamptz), tenantry.create_organization(text, text, uuid, uuid, text, text, timestamptz),
    tenantry.verified_domain_of_viewer(), tenantry.joinable_organizations(text, text, boolean),
    tenantry.decide_membership_request(uuid, uuid, tenantry.member_role, timestamptz),
    tenantry.join_organization(text, text, uuid, uuid, uuid, boolean, timestamptz),
    tenantry.has_seat_here(), tenantry.switch_organization() to tenantry_app, tenantry_superadmin;

-- A new owner needs CREATE on the schema at the moment it becomes one, and only then.
grant create on schema tenantry to tenantry_superadmin;
alter function tenantry.enter_tenant(text, text, uuid, text, text) owner to tenantry_superadmin;
alter function tenantry.viewer(text, text) owner to tenantry_superadmin;
alter function tenantry.restore_organization(text, text, uuid, timestamptz) owner to tenantry_superadmin;
alter function tenantry.restorable_organizations(text, text, timestamptz) owner to tenantry_superadmin;
alter function tenantry.enter_by_key(bytea, inet, timestamptz, uuid, text, text) owner to tenantry_superadmin;
alter function tenantry.key_standing(bytea, inet, timestamptz) owner to tenantry_superadmin;
alter function tenantry.accept_invitation(text, text, bytea, uuid, timestamptz) owner to tenantry_superadmin;
alter function tenantry.create_organization(text, text, uuid, uuid, text, text, timestamptz) owner to tenantry_superadmin;
alter function tenantry.verified_domain(uuid) owner to tenantry_superadmin;
alter function tenantry.verified_domain_of_viewer() owner to tenantry_superadmin;
alter function tenantry.joinable_organizations(text, text, boolean) owner to tenantry_superadmin;
alter function tenantry.has_seat(uuid) owner to tenantry_superadmin;
alter function tenantry.has_seat_here() owner to tenantry_superadmin;
alter function tenantry.decide_membership_request(uuid, uuid, tenantry.member_role, timestamptz) owner to tenantry_superadmin;
alter function tenantry.join_organization(text, text, uuid, uuid, uuid, boolean, timestamptz) owner to tenantry_superadmin;
alter function tenantry.switch_organization() owner to tenantry_superadmin;
alter function tenantry.forget_current_organization() owner to tenantry_superadmin;
revoke create on schema tenantry from tenantry_superadmin;
