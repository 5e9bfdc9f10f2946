alter table tenantry.jobs
    drop column last_succeeded_at,
    drop column failures,
    drop column done,
    drop column seconds;
