create table webhook_events (
    id               uuid primary key,
    source           webhook_source not null,
    event_id         text not null check (char_length(event_id) between 1 and 255),
    event_type       text not null check (char_length(event_type) between 1 and 255),
    object_id        text check (char_length(object_id) <= 255),
    raw_body         bytea not null check (octet_length(raw_body) <= 1048576),
    status           webhook_status not null default 'RECEIVED',
    attempts         integer not null default 0 check (attempts >= 0),
    last_error       text,
    next_attempt_at  timestamptz not null default now(),
    organization_id  uuid references organizations (id),
    event_created_at timestamptz,
    received_at      timestamptz not null default now(),
    processed_at     timestamptz,
    failed_at        timestamptz,
    unique (source, event_id)
);

alter table webhook_events enable row level security;
alter table webhook_events force row level security;
create policy tenant on webhook_events for all to tenantry_app
    using (organization_id = app.current_org()) with check (organization_id = app.current_org());
create policy superadmin on webhook_events for all to tenantry_superadmin using (true) with check (true);
-- Everything but the raw body, which holds whatever the sender knows.
grant select (id, source, event_id, event_type, object_id, status, attempts, last_error, next_attempt_at, organization_id,
              event_created_at, received_at, processed_at, failed_at) on webhook_events to tenantry_app;
grant all on webhook_events to tenantry_superadmin;

create index webhook_events_pending_idx on webhook_events (next_attempt_at, id) where status in ('RECEIVED', 'FAILED');
create index webhook_events_organization_id_idx on webhook_events (organization_id, received_at desc, id);
create index webhook_events_received_at_idx on webhook_events (received_at, id);
create index webhook_events_object_id_idx on webhook_events (source, object_id, event_created_at);

comment on table webhook_events is 'Inbox: every webhook whose signature was good, stored once and then applied by the worker.';
comment on column webhook_events.event_id is 'Id given by the sender (Clerk: svix-id); with source it makes a repeated delivery a no-op.';
comment on column webhook_events.object_id is 'Id of the object at the sender, e.g. sub_… or user_….';
comment on column webhook_events.raw_body is 'The bytes as they came, which is what was signed; at most 1 MiB. Not readable for the application role.';
comment on column webhook_events.attempts is 'Attempts to apply it so far.';
comment on column webhook_events.next_attempt_at is 'Not before this; moves out with every failure.';
comment on column webhook_events.organization_id is 'Null until known: then only superadmins see the event.';
comment on column webhook_events.event_created_at is 'When the sender made it (Clerk: envelope timestamp; Stripe: created).';
comment on column webhook_events.processed_at is 'When it was APPLIED or IGNORED.';
comment on column webhook_events.failed_at is 'When it last FAILED, or became DEAD.';
