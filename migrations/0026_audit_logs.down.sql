drop table audit_logs;
drop function app.ensure_audit_partitions(date, int);
drop function app.secure_audit_partition(regclass);
drop function app.refuse_audit_change();
