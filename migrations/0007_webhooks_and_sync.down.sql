drop function tenantry.meet_user(text, text, uuid, text, text, text, uuid, uuid, text, text, timestamptz);
drop function tenantry.account_standing(text, text);
drop table tenantry.sync_objects;
drop table tenantry.webhook_events;
drop type tenantry.webhook_status;
drop function tenantry.body_text(bytea);
drop type tenantry.webhook_source;
