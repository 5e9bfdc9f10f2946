comment on column webhook_events.last_error is null;
revoke update (status, attempts, last_error, cause, next_attempt_at, processed_at, failed_at) on webhook_events from tenantry_app;
alter table webhook_events drop column cause;
