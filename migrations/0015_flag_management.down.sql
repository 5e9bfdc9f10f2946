drop index tenantry.platform_audit_logs_flag_idx;
drop table tenantry.client_keys;
