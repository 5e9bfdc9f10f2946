drop view tenantry.customer_events;
drop type tenantry.customer_event_kind;
drop trigger pass_customer_on on tenantry.tickets;
drop trigger take_customer on tenantry.escalations;
drop trigger take_customer on tenantry.ticket_messages;
drop function tenantry.pass_customer_on();
drop function tenantry.take_customer_of_ticket();
alter table tenantry.ticket_messages drop column customer_id;
drop table tenantry.escalation_notices;
drop table tenantry.escalation_rules;
drop index tenantry.escalations_overdue_idx;
drop index tenantry.escalations_due_at_idx;
alter table tenantry.escalations
    drop column customer_id,
    drop column overdue_at,
    drop column due_at;
drop table tenantry.representative_absences;
drop function tenantry.move_customer_account(uuid, uuid);
alter table tenantry.customer_profiles drop column merged_into_id;
