drop table tenantry.platform_audit_logs;
drop table tenantry.audit_logs;
drop table tenantry.idempotency_keys;
drop function tenantry.ensure_audit_partitions(date, int);
drop function tenantry.secure_audit_partition(regclass);
drop function tenantry.refuse_audit_change();
