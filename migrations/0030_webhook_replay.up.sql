-- A tenant's administrators may have their events worked on again, which changes nothing else of them.
grant update (status, attempts, last_error, next_attempt_at, processed_at, failed_at) on webhook_events to tenantry_app;
comment on column webhook_events.last_error is 'Why the last try failed; of an IGNORED event why there was nothing to do.';
