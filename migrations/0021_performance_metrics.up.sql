create table performance_metrics (
    id              uuid not null,
    organization_id uuid not null references organizations (id),
    period          metric_period not null,
    period_start    timestamptz not null,
    tickets_opened  integer not null default 0 check (tickets_opened >= 0),
    tickets_resolved integer not null default 0 check (tickets_resolved >= 0),
    tickets_escalated integer not null default 0 check (tickets_escalated >= 0),
    refunds_requested integer not null default 0 check (refunds_requested >= 0),
    refunds_settled integer not null default 0 check (refunds_settled >= 0),
    refund_total_minor bigint not null default 0 check (refund_total_minor >= 0),
    currency        text not null default 'USD' check (currency ~ '^[A-Z]{3}$'),
    messages_sent   integer not null default 0 check (messages_sent >= 0),
    first_response_seconds_avg double precision check (first_response_seconds_avg >= 0),
    resolution_seconds_avg double precision check (resolution_seconds_avg >= 0),
    by_category     jsonb not null default '{}' check (jsonb_typeof(by_category) = 'object'),
    trend           performance_trend not null default 'FLAT',
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, period, period_start)
);

alter table performance_metrics enable row level security;
alter table performance_metrics force row level security;
create policy tenant on performance_metrics for all to tenantry_app
    using (organization_id = app.current_org()) with check (organization_id = app.current_org());
create policy superadmin on performance_metrics for all to tenantry_superadmin using (true) with check (true);
grant select on performance_metrics to tenantry_app;
grant all on performance_metrics to tenantry_superadmin;

create index performance_metrics_created_at_idx on performance_metrics (organization_id, created_at, id);
create index performance_metrics_period_start_idx on performance_metrics (organization_id, period_start, id);
create trigger touch_updated_at before update on performance_metrics for each row execute function app.touch_updated_at();

comment on table performance_metrics is 'Figures of an organization per period, computed by a job. Read only for the tenant.';
comment on column performance_metrics.period_start is 'First instant of the period, UTC.';
comment on column performance_metrics.refund_total_minor is 'Settled refunds in minor units of currency (cents).';
comment on column performance_metrics.messages_sent is 'Public messages of representatives and agents.';
comment on column performance_metrics.first_response_seconds_avg is 'Seconds, pauses not counted; null: none in this period.';
comment on column performance_metrics.resolution_seconds_avg is 'Seconds, pauses not counted; null: none in this period.';
comment on column performance_metrics.by_category is 'JSON object: ticket category to its counts and times.';
comment on column performance_metrics.trend is 'Of the resolution time against the period before; UP is better.';
