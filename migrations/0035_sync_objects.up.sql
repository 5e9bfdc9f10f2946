-- What the providers said of their objects, merged so that the order of the events does not matter. The rows of users,
-- organizations, members, invitations and subscriptions are derived from here.
create table sync_objects (
    source     webhook_source not null,
    kind       text not null check (kind in ('user', 'organization', 'membership', 'invitation', 'customer', 'subscription', 'checkout', 'product', 'price', 'entitlements')),
    object_id  text not null check (char_length(object_id) between 1 and 255),
    fields     jsonb not null default '{}' check (jsonb_typeof(fields) = 'object'),
    refs       text[] not null default '{}',
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    deleted_at timestamptz,
    primary key (source, kind, object_id)
);

alter table sync_objects enable row level security;
alter table sync_objects force row level security;
create policy superadmin on sync_objects for all to tenantry_superadmin using (true) with check (true);
grant all on sync_objects to tenantry_superadmin;

create index sync_objects_refs_idx on sync_objects using gin (refs);
create trigger touch_updated_at before update on sync_objects for each row execute function app.touch_updated_at();

comment on table sync_objects is 'What Clerk and Stripe said of their objects: every field with the stamp of the event it is from. Global and for the sync only: an object can be known before its organization is.';
comment on column sync_objects.object_id is 'Id at the source; for entitlements the id of the customer.';
comment on column sync_objects.fields is 'Field → {"at": [authority, version, rank, event id], "is": value}. The greater stamp wins, field by field.';
comment on column sync_objects.refs is 'Ids of the objects this one names, and what else it is looked up by: the way from a customer to its subscriptions.';
comment on column sync_objects.deleted_at is 'Set: deleted at the source, for good, whatever arrives later.';
