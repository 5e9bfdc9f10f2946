-- What failed inside is for operators: there is no grant to read it.
alter table webhook_events add column cause text;
comment on column webhook_events.cause is 'What failed, in full; last_error says of it what tenants may know. Not readable for the application role.';

-- A tenant's administrators may have their events worked on again, which changes nothing else of them.
grant update (status, attempts, last_error, cause, next_attempt_at, processed_at, failed_at) on webhook_events to tenantry_app;
comment on column webhook_events.last_error is 'Why the last try failed; of an IGNORED event why there was nothing to do.';
