-- What a help desk does with tickets: search, tags and fields as rows that lists are filtered by, the history of messages,
-- watchers, saved views, and the queue.

create type tenantry.search_language as enum ('SIMPLE', 'ARABIC', 'DANISH', 'DUTCH', 'ENGLISH', 'FINNISH', 'FRENCH', 'GERMAN', 'GREEK', 'HUNGARIAN', 'ITALIAN', 'NORWEGIAN', 'PORTUGUESE', 'ROMANIAN', 'RUSSIAN', 'SPANISH', 'SWEDISH', 'TURKISH');
comment on type tenantry.search_language is 'The text search configurations of PostgreSQL that an organization can choose from.';
create type tenantry.ticket_field_type as enum ('TEXT', 'NUMBER', 'BOOLEAN', 'DATE', 'SELECT', 'MULTI_SELECT');
comment on type tenantry.ticket_field_type is 'What a custom field of tickets holds.';

alter table tenantry.organizations
    add column search_language tenantry.search_language not null default 'SIMPLE',
    add column message_edit_minutes integer not null default 15 check (message_edit_minutes between 0 and 1440),
    add column requeue_minutes integer check (requeue_minutes between 1 and 10080),
    add column assigns_automatically boolean not null default false;
comment on column tenantry.organizations.search_language is 'How words of tickets are reduced to their stems for the search.';
comment on column tenantry.organizations.message_edit_minutes is 'How long authors can change and delete their messages; 0: never.';
comment on column tenantry.organizations.requeue_minutes is 'After how long without an answer a ticket goes back to the queue; null: never.';
comment on column tenantry.organizations.assigns_automatically is 'Whether tickets that nobody works on are given to representatives by themselves.';
grant update (search_language, message_edit_minutes, requeue_minutes, assigns_automatically) on tenantry.organizations to tenantry_app;

create function tenantry.next_due(p_status tenantry.ticket_status, p_paused timestamptz, p_responded timestamptz, p_first timestamptz,
                                  p_next timestamptz, p_resolution timestamptz)
    returns timestamptz language plpgsql immutable parallel safe as $$
begin
    if p_paused is not null or p_status in ('RESOLVED', 'CLOSED') then
        return null;
    end if;
    return least(case when p_responded is null then p_first end, p_next, p_resolution);
end $$;
comment on function tenantry.next_due(tenantry.ticket_status, timestamptz, timestamptz, timestamptz, timestamptz, timestamptz) is
    'When a ticket is due next, for a response or the resolution; null while its clocks stand still and when it is solved.';
revoke execute on function tenantry.next_due(tenantry.ticket_status, timestamptz, timestamptz, timestamptz, timestamptz, timestamptz) from public;
grant execute on function tenantry.next_due(tenantry.ticket_status, timestamptz, timestamptz, timestamptz, timestamptz, timestamptz) to tenantry_app, tenantry_superadmin;

create function tenantry.silent_since(p_status tenantry.ticket_status, p_assignee uuid, p_assigned timestamptz, p_waiting timestamptz)
    returns timestamptz language plpgsql immutable parallel safe as $$
begin
    if p_assignee is null or p_waiting is null or p_status not in ('NEW', 'OPEN') then
        return null;
    end if;
    return greatest(p_assigned, p_waiting);
end $$;
comment on function tenantry.silent_since(tenantry.ticket_status, uuid, timestamptz, timestamptz) is
    'Since when an assignee owes an answer: since they have the ticket and the customer waits.';
revoke execute on function tenantry.silent_since(tenantry.ticket_status, uuid, timestamptz, timestamptz) from public;
grant execute on function tenantry.silent_since(tenantry.ticket_status, uuid, timestamptz, timestamptz) to tenantry_app, tenantry_superadmin;

alter table tenantry.tickets
    add column assigned_at timestamptz,
    add column waiting_since timestamptz,
    add column split_from_id uuid check (split_from_id <> id),
    add column custom_fields jsonb not null default '{}' check (jsonb_typeof(custom_fields) = 'object' and pg_column_size(custom_fields) <= 262144),
    add column next_response_since timestamptz,
    add column next_response_due_at timestamptz,
    add column next_due_at timestamptz generated always as
        (tenantry.next_due(status, sla_paused_at, first_responded_at, first_response_due_at, next_response_due_at, resolution_due_at)) stored,
    add column silent_since timestamptz generated always as
        (tenantry.silent_since(status, assignee_id, assigned_at, waiting_since)) stored,
    add foreign key (organization_id, split_from_id) references tenantry.tickets (organization_id, id);
comment on column tenantry.tickets.assigned_at is 'Since when the assignee has the ticket; null: nobody has.';
comment on column tenantry.tickets.waiting_since is 'Since when the customer waits for an answer; null: the customer does not.';
comment on column tenantry.tickets.split_from_id is 'The ticket whose messages this one was made of.';
comment on column tenantry.tickets.custom_fields is 'JSON object: key of a custom field to its value.';
comment on column tenantry.tickets.next_response_since is 'Since when something that the customer wrote after the first response has no answer.';
comment on column tenantry.tickets.next_response_due_at is 'SLA: moved by the pauses; null: nothing to answer.';
comment on column tenantry.tickets.next_due_at is 'What is due next, for queues and the job that looks for breaches.';
comment on column tenantry.tickets.silent_since is 'Since when the assignee owes an answer.';

create index tickets_next_due_at_idx on tenantry.tickets
    (organization_id, (next_due_at is null), (case when next_due_at is null then '-infinity'::timestamptz else next_due_at end), id);
-- Filters do not use an index over expressions; a comparison of the column is what this one is for.
create index tickets_overdue_idx on tenantry.tickets (organization_id, next_due_at) where next_due_at is not null;
create index tickets_silent_since_idx on tenantry.tickets (organization_id, silent_since) where silent_since is not null;
create index tickets_load_idx on tenantry.tickets (organization_id, assignee_id) where status_rank < 4;
create index tickets_split_from_id_idx on tenantry.tickets (organization_id, split_from_id, created_at, id) where split_from_id is not null;

-- Tags and custom fields as rows. Operators of arrays and of JSON are not leakproof, so that under row-level security no index
-- answers them; equality of text is. Triggers keep these rows: what changes a ticket need not know of them.
create table tenantry.ticket_tags (
    organization_id uuid not null references tenantry.organizations (id),
    ticket_id       uuid not null,
    tag             text not null check (char_length(tag) between 1 and 50),
    primary key (organization_id, ticket_id, tag),
    foreign key (organization_id, ticket_id) references tenantry.tickets (organization_id, id) on delete cascade
);
alter table tenantry.ticket_tags enable row level security;
alter table tenantry.ticket_tags force row level security;
create policy tenant on tenantry.ticket_tags for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.ticket_tags for all to tenantry_superadmin using (true) with check (true);
grant select, insert, delete on tenantry.ticket_tags to tenantry_app;
grant all on tenantry.ticket_tags to tenantry_superadmin;
create index ticket_tags_tag_idx on tenantry.ticket_tags (organization_id, tag, ticket_id);
comment on table tenantry.ticket_tags is 'The tags of tickets, a row each, as a trigger keeps them.';

create table tenantry.ticket_field_values (
    organization_id uuid not null references tenantry.organizations (id),
    ticket_id       uuid not null,
    key             text not null check (char_length(key) between 1 and 50),
    place           integer not null check (place >= 0),
    text_value      text check (char_length(text_value) <= 1000),
    number_value    double precision,
    primary key (organization_id, ticket_id, key, place),
    foreign key (organization_id, ticket_id) references tenantry.tickets (organization_id, id) on delete cascade,
    check (num_nonnulls(text_value, number_value) = 1)
);
alter table tenantry.ticket_field_values enable row level security;
alter table tenantry.ticket_field_values force row level security;
create policy tenant on tenantry.ticket_field_values for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.ticket_field_values for all to tenantry_superadmin using (true) with check (true);
grant select, insert, delete on tenantry.ticket_field_values to tenantry_app;
grant all on tenantry.ticket_field_values to tenantry_superadmin;
create index ticket_field_values_text_idx on tenantry.ticket_field_values (organization_id, key, text_value, ticket_id) where text_value is not null;
create index ticket_field_values_number_idx on tenantry.ticket_field_values (organization_id, key, number_value, ticket_id) where number_value is not null;
comment on table tenantry.ticket_field_values is 'The values of custom fields, a row each, as a trigger keeps them: dates and truth values as text.';
comment on column tenantry.ticket_field_values.place is 'Place in a list of values, from 0.';

create function tenantry.mirror_ticket_labels() returns trigger
    language plpgsql
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
begin
    if tg_op = 'INSERT' or new.tags is distinct from old.tags then
        if tg_op = 'UPDATE' then
            delete from tenantry.ticket_tags where organization_id = new.organization_id and ticket_id = new.id and tag <> all (new.tags);
        end if;
        insert into tenantry.ticket_tags (organization_id, ticket_id, tag)
            select new.organization_id, new.id, tag from unnest(new.tags) as tag on conflict do nothing;
    end if;
    if tg_op = 'INSERT' or new.custom_fields is distinct from old.custom_fields then
        if tg_op = 'UPDATE' then
            delete from tenantry.ticket_field_values where organization_id = new.organization_id and ticket_id = new.id;
        end if;
        insert into tenantry.ticket_field_values (organization_id, ticket_id, key, place, text_value, number_value)
            select new.organization_id, new.id, f.key, v.place - 1,
                   case when jsonb_typeof(v.value) in ('string', 'boolean') then v.value #>> '{}' end,
                   case when jsonb_typeof(v.value) = 'number' then (v.value #>> '{}')::double precision end
              from jsonb_each(new.custom_fields) f,
                   jsonb_array_elements(case when jsonb_typeof(f.value) = 'array' then f.value else jsonb_build_array(f.value) end)
                       with ordinality as v (value, place)
             where jsonb_typeof(v.value) in ('string', 'boolean', 'number');
    end if;
    return null;
end
$$;
comment on function tenantry.mirror_ticket_labels() is 'Trigger: keeps ticket_tags and ticket_field_values as the ticket has them.';
revoke execute on function tenantry.mirror_ticket_labels() from public;
create trigger mirror_labels_of_new after insert on tenantry.tickets for each row
    when (new.tags <> '{}' or new.custom_fields <> '{}') execute function tenantry.mirror_ticket_labels();
create trigger mirror_labels after update of tags, custom_fields on tenantry.tickets for each row
    when (new.tags is distinct from old.tags or new.custom_fields is distinct from old.custom_fields) execute function tenantry.mirror_ticket_labels();

-- Messages are changed by their authors for a while; what they said before stays.
alter table tenantry.ticket_messages
    add column edited_at timestamptz,
    add column deleted_at timestamptz,
    add column moved_from_id uuid,
    drop constraint ticket_messages_body_check,
    add constraint ticket_messages_body_check check (char_length(body) <= 50000 and (body <> '' or deleted_at is not null)),
    add foreign key (organization_id, moved_from_id) references tenantry.tickets (organization_id, id);
comment on column tenantry.ticket_messages.edited_at is 'When the author changed it last.';
comment on column tenantry.ticket_messages.deleted_at is 'When the author deleted it; its text is in the revisions.';
comment on column tenantry.ticket_messages.moved_from_id is 'The ticket that it was written on, before that was merged or split.';
create index ticket_messages_moved_from_id_idx on tenantry.ticket_messages (organization_id, moved_from_id) where moved_from_id is not null;

create table tenantry.ticket_message_revisions (
    id              uuid not null,
    organization_id uuid not null references tenantry.organizations (id),
    message_id      uuid not null,
    body            text not null check (char_length(body) between 1 and 50000),
    created_at      timestamptz not null default now(),
    primary key (organization_id, id),
    foreign key (organization_id, message_id) references tenantry.ticket_messages (organization_id, id) on delete cascade
);
alter table tenantry.ticket_message_revisions enable row level security;
alter table tenantry.ticket_message_revisions force row level security;
create policy tenant on tenantry.ticket_message_revisions for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.ticket_message_revisions for all to tenantry_superadmin using (true) with check (true);
grant select, insert on tenantry.ticket_message_revisions to tenantry_app;
grant all on tenantry.ticket_message_revisions to tenantry_superadmin;
create index ticket_message_revisions_message_id_idx on tenantry.ticket_message_revisions (organization_id, message_id, created_at, id);
comment on table tenantry.ticket_message_revisions is 'What messages said before their authors changed or deleted them.';
comment on column tenantry.ticket_message_revisions.body is 'The text that was replaced.';
comment on column tenantry.ticket_message_revisions.created_at is 'When it was replaced.';

create table tenantry.ticket_watchers (
    id              uuid not null,
    organization_id uuid not null references tenantry.organizations (id),
    ticket_id       uuid not null,
    user_id         uuid not null references tenantry.users (id),
    created_at      timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, ticket_id, user_id),
    foreign key (organization_id, ticket_id) references tenantry.tickets (organization_id, id) on delete cascade,
    foreign key (organization_id, user_id) references tenantry.organization_members (organization_id, user_id) on delete cascade
);
alter table tenantry.ticket_watchers enable row level security;
alter table tenantry.ticket_watchers force row level security;
create policy tenant on tenantry.ticket_watchers for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.ticket_watchers for all to tenantry_superadmin using (true) with check (true);
grant select, insert, delete on tenantry.ticket_watchers to tenantry_app;
grant all on tenantry.ticket_watchers to tenantry_superadmin;
create index ticket_watchers_ticket_id_idx on tenantry.ticket_watchers (organization_id, ticket_id, created_at, id);
create index ticket_watchers_user_id_idx on tenantry.ticket_watchers (organization_id, user_id, ticket_id);
comment on table tenantry.ticket_watchers is 'Members who follow a ticket.';

create table tenantry.ticket_fields (
    id              uuid not null,
    organization_id uuid not null references tenantry.organizations (id),
    key             text not null check (key ~ '^[a-z][a-z0-9_]{0,49}$'),
    name            text not null check (char_length(name) between 1 and 100),
    description     text check (char_length(description) <= 1000),
    type            tenantry.ticket_field_type not null,
    options         text[] not null default '{}' check (cardinality(options) <= 200),
    is_required     boolean not null default false,
    position        integer not null default 0,
    archived_at     timestamptz,
    version         integer not null default 1 check (version > 0),
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, key),
    check (cardinality(options) > 0 or type not in ('SELECT', 'MULTI_SELECT'))
);
alter table tenantry.ticket_fields enable row level security;
alter table tenantry.ticket_fields force row level security;
create policy tenant on tenantry.ticket_fields for all to tenantry_app
    using (organization_id = tenantry.current_org()) with check (organization_id = tenantry.current_org());
create policy superadmin on tenantry.ticket_fields for all to tenantry_superadmin using (true) with check (true);
grant select, insert, update on tenantry.ticket_fields to tenantry_app;
grant all on tenantry.ticket_fields to tenantry_superadmin;
create index ticket_fields_position_idx on tenantry.ticket_fields (organization_id, position, id);
create index ticket_fields_created_at_idx on tenantry.ticket_fields (organization_id, created_at, id);
create trigger touch_updated_at before update on tenantry.ticket_fields for each row execute function tenantry.touch_updated_at();
comment on table tenantry.ticket_fields is 'The custom fields of the tickets of an organization.';
comment on column tenantry.ticket_fields.key is 'Name in ticket.custom_fields; never changes.';
comment on column tenantry.ticket_fields.type is 'Never changes.';
comment on column tenantry.ticket_fields.options is 'What SELECT and MULTI_SELECT choose from.';
comment on column tenantry.ticket_fields.is_required is 'New tickets need a value.';
comment on column tenantry.ticket_fields.position is 'Order in forms.';
comment on column tenantry.ticket_fields.archived_at is 'Set: takes no new values; old ones stay.';
comment on column tenantry.ticket_fields.version is 'Optimistic lock: every update by a user adds one; a writer that brings an older number is refused.';

create table tenantry.ticket_views (
    id              uuid not null,
    organization_id uuid not null references tenantry.organizations (id),
    user_id         uuid not null references tenantry.users (id),
    name            text not null check (char_length(name) between 1 and 100),
    is_shared       boolean not null default false,
    filter          jsonb not null default '{}' check (jsonb_typeof(filter) = 'object' and pg_column_size(filter) <= 32768),
    sort            jsonb not null default '[]' check (jsonb_typeof(sort) = 'array' and pg_column_size(sort) <= 4096),
    version         integer not null default 1 check (version > 0),
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    primary key (organization_id, id)
);
alter table tenantry.ticket_views enable row level security;
alter table tenantry.ticket_views force row level security;
-- A view that is not shared is its owner's alone.
create policy tenant on tenantry.ticket_views for all to tenantry_app
    using (organization_id = tenantry.current_org() and (is_shared or user_id = tenantry.current_user_id()))
    with check (organization_id = tenantry.current_org() and (is_shared or user_id = tenantry.current_user_id()));
create policy superadmin on tenantry.ticket_views for all to tenantry_superadmin using (true) with check (true);
grant select, insert, update, delete on tenantry.ticket_views to tenantry_app;
grant all on tenantry.ticket_views to tenantry_superadmin;
create index ticket_views_name_idx on tenantry.ticket_views (organization_id, name, id);
create index ticket_views_created_at_idx on tenantry.ticket_views (organization_id, created_at, id);
create index ticket_views_user_id_idx on tenantry.ticket_views (organization_id, user_id);
create trigger touch_updated_at before update on tenantry.ticket_views for each row execute function tenantry.touch_updated_at();
comment on table tenantry.ticket_views is 'Saved filters and orders of the list of tickets.';
comment on column tenantry.ticket_views.user_id is 'Who made it. Unless it is shared, nobody else sees it.';
comment on column tenantry.ticket_views.filter is 'JSON object: `where` of the list of tickets.';
comment on column tenantry.ticket_views.sort is 'JSON array: `orderBy` of the list of tickets.';
comment on column tenantry.ticket_views.version is 'Optimistic lock: every update by a user adds one; a writer that brings an older number is refused.';

-- Full-text search. `@@` is not leakproof, so that under row-level security it is no index condition: whoever searches asks a
-- function of the superadmin role, which sees the documents of all organizations and names the viewer's in the query. Each
-- document holds its organization as a word, so that the index itself keeps organizations apart, a small one beside a big one.
create table tenantry.ticket_documents (
    organization_id uuid not null references tenantry.organizations (id),
    ticket_id       uuid not null,
    language        tenantry.search_language not null,
    words           tsvector not null,
    public_words    tsvector,
    primary key (organization_id, ticket_id),
    foreign key (organization_id, ticket_id) references tenantry.tickets (organization_id, id) on delete cascade
);
alter table tenantry.ticket_documents enable row level security;
alter table tenantry.ticket_documents force row level security;
create policy tenant on tenantry.ticket_documents for select to tenantry_app using (organization_id = tenantry.current_org());
create policy superadmin on tenantry.ticket_documents for all to tenantry_superadmin using (true) with check (true);
grant select on tenantry.ticket_documents to tenantry_app;
grant all on tenantry.ticket_documents to tenantry_superadmin;
create index ticket_documents_words_idx on tenantry.ticket_documents using gin (words);
create index ticket_documents_language_idx on tenantry.ticket_documents (organization_id, language);
comment on table tenantry.ticket_documents is 'The words of tickets and their messages, as triggers keep them. Read through tenantry.search_tickets only.';
comment on column tenantry.ticket_documents.language is 'What the words were reduced to their stems with.';
comment on column tenantry.ticket_documents.words is 'Number, subject, customer, description and messages, and the organization as a word.';
comment on column tenantry.ticket_documents.public_words is 'The same without internal notes; null: there are none.';

create function tenantry.words_of(p_language tenantry.search_language, p_text text) returns tsvector
    language sql stable parallel safe
    set search_path = pg_catalog, pg_temp
    as $$ select to_tsvector(lower(p_language::text)::regconfig, p_text) $$;
comment on function tenantry.words_of(tenantry.search_language, text) is 'The words of a text, for the search.';

create function tenantry.word_of_organization(p_organization uuid) returns text
    language sql immutable parallel safe
    set search_path = pg_catalog, pg_temp
    as $$ select '~' || replace(p_organization::text, '-', '') $$;
comment on function tenantry.word_of_organization(uuid) is 'The word by which the index of documents keeps organizations apart. No text has one that begins like it.';

-- Messages beyond this size of a document are not found by their words: a tsvector ends at one megabyte.
create function tenantry.index_ticket(p_organization uuid, p_ticket uuid) returns void
    language plpgsql security definer
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
declare
    most constant integer := 400000;
    own record;
    message record;
    everything tsvector;
    shown tsvector;
    has_notes boolean := false;
begin
    select t.number, t.subject, t.description, c.name, c.email, c.company, o.search_language into own
      from tenantry.tickets t join tenantry.organizations o on o.id = t.organization_id
      left join tenantry.customer_profiles c on c.organization_id = t.organization_id and c.id = t.customer_id
     where t.organization_id = p_organization and t.id = p_ticket;
    if not found then
        return;
    end if;
    shown := array_to_tsvector(array[tenantry.word_of_organization(p_organization), own.number::text])
          || setweight(tenantry.words_of(own.search_language, own.subject), 'A')
          || setweight(to_tsvector('simple', concat_ws(' ', own.name, own.email, own.company)), 'B')
          || tenantry.words_of(own.search_language, own.description);
    everything := shown;
    for message in
        select m.body, m.is_internal from tenantry.ticket_messages m
         where m.organization_id = p_organization and m.ticket_id = p_ticket and m.deleted_at is null order by m.created_at, m.id
    loop
        exit when pg_column_size(everything) > most;
        everything := everything || tenantry.words_of(own.search_language, message.body);
        if message.is_internal then
            has_notes := true;
        else
            shown := shown || tenantry.words_of(own.search_language, message.body);
        end if;
    end loop;
    insert into tenantry.ticket_documents (organization_id, ticket_id, language, words, public_words)
        values (p_organization, p_ticket, own.search_language, everything, case when has_notes then shown end)
        on conflict (organization_id, ticket_id) do update
            set language = excluded.language, words = excluded.words, public_words = excluded.public_words;
end
$$;
comment on function tenantry.index_ticket(uuid, uuid) is 'Makes the document of a ticket anew.';

create function tenantry.index_changed_ticket() returns trigger
    language plpgsql security definer
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
begin
    perform tenantry.index_ticket(new.organization_id, new.id);
    return null;
end
$$;
create function tenantry.index_changed_message() returns trigger
    language plpgsql security definer
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
begin
    -- A new message adds its words: to make the document anew would read all that was ever said.
    update tenantry.ticket_documents d
       set words = d.words || tenantry.words_of(d.language, new.body),
           public_words = case when new.is_internal then coalesce(d.public_words, d.words)
                               when d.public_words is null then null
                               else d.public_words || tenantry.words_of(d.language, new.body) end
     where d.organization_id = new.organization_id and d.ticket_id = new.ticket_id and pg_column_size(d.words) <= 400000;
    return null;
end
$$;
create function tenantry.index_changed_messages() returns trigger
    language plpgsql security definer
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
begin
    perform tenantry.index_ticket(c.organization_id, c.ticket_id) from (
        select n.organization_id, unnest(array[o.ticket_id, n.ticket_id]) as ticket_id
          from old_rows o join new_rows n on n.organization_id = o.organization_id and n.id = o.id
         where (o.body, o.is_internal, o.deleted_at, o.ticket_id) is distinct from (n.body, n.is_internal, n.deleted_at, n.ticket_id)
         group by 1, 2) c;
    return null;
end
$$;
create function tenantry.index_changed_customer() returns trigger
    language plpgsql security definer
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
begin
    perform tenantry.index_ticket(t.organization_id, t.id) from tenantry.tickets t
      where t.organization_id = new.organization_id and t.customer_id = new.id;
    return null;
end
$$;
comment on function tenantry.index_changed_ticket() is 'Trigger: the document of a ticket whose texts changed.';
comment on function tenantry.index_changed_message() is 'Trigger: the document of a ticket that has a new message.';
comment on function tenantry.index_changed_messages() is 'Trigger: the documents of tickets whose messages changed or moved, each once for a statement.';
comment on function tenantry.index_changed_customer() is 'Trigger: the documents of the tickets of a customer with another name, address or company.';

-- The viewer's tickets that hold these words, the newest 10,000 of them: a word that is everywhere must not make a list wait for all.
-- The last word may be the beginning of one.
create function tenantry.search_tickets(p_text text, p_with_notes boolean) returns setof uuid
    language plpgsql stable security definer rows 200
    set search_path = pg_catalog, tenantry, pg_temp
    as $$
declare
    own constant uuid := tenantry.current_org();
    config regconfig;
    beginning text;
    words tsquery;
begin
    select lower(o.search_language::text)::regconfig into config from tenantry.organizations o where o.id = own;
    if config is null then
        return;
    end if;
    words := websearch_to_tsquery(config, p_text);
    beginning := lower(substring(p_text from '([[:alnum:]]+)$'));
    if char_length(beginning) > 1 and p_text !~ '["-]' and p_text !~* '\mor\M' then
        words := websearch_to_tsquery(config, left(p_text, -char_length(beginning)))
              && (websearch_to_tsquery(config, beginning) || (beginning || ':*')::tsquery);
    end if;
    if numnode(words) = 0 then
        return;
    end if;
    -- The organization comes as a value, so that the plan is made for its share of the documents.
    return query execute
        'select d.ticket_id from tenantry.ticket_documents d
          where d.words @@ ($1::tsquery && $2) and d.organization_id = $3 and ($4 or coalesce(d.public_words, d.words) @@ $2)
          order by d.ticket_id desc limit 10000'
        using quote_literal(tenantry.word_of_organization(own)), words, own, p_with_notes;
end
$$;
comment on function tenantry.search_tickets(text, boolean) is 'Ids of the tickets of the organization of the transaction that hold these words (websearch_to_tsquery); with those of internal notes or without.';

revoke execute on function tenantry.words_of(tenantry.search_language, text), tenantry.word_of_organization(uuid), tenantry.index_ticket(uuid, uuid),
    tenantry.index_changed_ticket(), tenantry.index_changed_message(), tenantry.index_changed_messages(), tenantry.index_changed_customer(), tenantry.search_tickets(text, boolean) from public;
grant execute on function tenantry.words_of(tenantry.search_language, text), tenantry.word_of_organization(uuid), tenantry.index_ticket(uuid, uuid),
    tenantry.search_tickets(text, boolean) to tenantry_superadmin;
grant execute on function tenantry.search_tickets(text, boolean) to tenantry_app;
-- A new owner needs CREATE on the schema at the moment it becomes one, and only then.
grant create on schema tenantry to tenantry_superadmin;
alter function tenantry.index_ticket(uuid, uuid) owner to tenantry_superadmin;
alter function tenantry.index_changed_ticket() owner to tenantry_superadmin;
alter function tenantry.index_changed_message() owner to tenantry_superadmin;
alter function tenantry.index_changed_messages() owner to tenantry_superadmin;
alter function tenantry.index_changed_customer() owner to tenantry_superadmin;
alter function tenantry.search_tickets(text, boolean) owner to tenantry_superadmin;
revoke create on schema tenantry from tenantry_superadmin;

create trigger index_new after insert on tenantry.tickets for each row execute function tenantry.index_changed_ticket();
create trigger index_changed after update of subject, description, customer_id on tenantry.tickets for each row
    when ((new.subject, new.description, new.customer_id) is distinct from (old.subject, old.description, old.customer_id))
    execute function tenantry.index_changed_ticket();
create trigger index_new after insert on tenantry.ticket_messages for each row execute function tenantry.index_changed_message();
-- For each statement: a merge moves hundreds of messages, and the document of their ticket is made of all of them.
create trigger index_changed after update on tenantry.ticket_messages
    referencing old table as old_rows new table as new_rows for each statement execute function tenantry.index_changed_messages();
create trigger index_changed after update of name, email, company on tenantry.customer_profiles for each row
    when ((new.name, new.email, new.company) is distinct from (old.name, old.email, old.company))
    execute function tenantry.index_changed_customer();
-- What is there already. The owner sees no rows of tenants.
set local role tenantry_superadmin;
insert into tenantry.ticket_tags (organization_id, ticket_id, tag)
    select t.organization_id, t.id, tag from tenantry.tickets t, unnest(t.tags) as tag on conflict do nothing;
select count(tenantry.index_ticket(organization_id, id)) from tenantry.tickets;
reset role;

-- What happened to tickets: the part of the audit log that their members may read.
create view tenantry.ticket_events with (security_invoker = true) as
    select id, organization_id, resource_id as ticket_id, user_id, api_key_id, action, metadata as changes, created_at
      from tenantry.audit_logs where resource_type = 'Ticket' and resource_id is not null;
grant select on tenantry.ticket_events to tenantry_app, tenantry_superadmin;
comment on view tenantry.ticket_events is 'Changes of tickets, for whoever works on them: the audit log without addresses and requests.';
