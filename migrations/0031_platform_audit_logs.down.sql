drop table platform_audit_logs;
