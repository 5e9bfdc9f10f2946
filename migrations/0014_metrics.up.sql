-- Jobs that operators can see, and figures of performance that a job computes.

alter table tenantry.jobs
    add column last_succeeded_at timestamptz,
    add column failures bigint not null default 0,
    add column done bigint not null default 0,
    add column seconds double precision not null default 0;
comment on column tenantry.jobs.last_succeeded_at is 'When a run last ended well.';
comment on column tenantry.jobs.failures is 'How many of runs failed.';
comment on column tenantry.jobs.done is 'Rows of all runs.';
comment on column tenantry.jobs.seconds is 'Seconds of all runs.';
