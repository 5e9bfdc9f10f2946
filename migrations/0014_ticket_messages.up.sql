create table ticket_messages (
    id              uuid not null,
    organization_id uuid not null references organizations (id),
    ticket_id          uuid not null,
    author_user_id     uuid references users (id),
    author_customer_id uuid,
    is_internal        boolean not null default false,
    body               text not null check (char_length(body) between 1 and 50000),
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    primary key (organization_id, id),
    foreign key (organization_id, ticket_id) references tickets (organization_id, id) on delete cascade,
    foreign key (organization_id, author_customer_id) references customer_profiles (organization_id, id),
    check (num_nonnulls(author_user_id, author_customer_id) <= 1),
    check (author_customer_id is null or not is_internal)
);

alter table ticket_messages enable row level security;
alter table ticket_messages force row level security;
create policy tenant on ticket_messages for all to tenantry_app
    using (organization_id = app.current_org()) with check (organization_id = app.current_org());
create policy superadmin on ticket_messages for all to tenantry_superadmin using (true) with check (true);
grant select, insert, update on ticket_messages to tenantry_app;
grant all on ticket_messages to tenantry_superadmin;

create index ticket_messages_created_at_idx on ticket_messages (organization_id, created_at, id);
create index ticket_messages_ticket_id_idx on ticket_messages (organization_id, ticket_id, created_at, id);
create index ticket_messages_author_user_id_idx on ticket_messages (organization_id, author_user_id, created_at, id);
create index ticket_messages_author_customer_id_idx on ticket_messages (organization_id, author_customer_id, created_at, id);
create trigger touch_updated_at before update on ticket_messages for each row execute function app.touch_updated_at();

comment on table ticket_messages is 'What was said on a ticket. The author is a user, a customer, or neither: the system.';
comment on column ticket_messages.author_user_id is 'Set: written by someone of the organization.';
comment on column ticket_messages.author_customer_id is 'Set: written by the customer; never internal.';
comment on column ticket_messages.is_internal is 'A note that the customer must not see.';
comment on column ticket_messages.body is 'Plain text, 1 to 50,000 characters.';
