create table team_performance (
    id              uuid not null,
    organization_id uuid not null references organizations (id),
    representative_id uuid not null,
    period          metric_period not null,
    period_start    timestamptz not null,
    tickets_handled integer not null default 0 check (tickets_handled >= 0),
    resolution_seconds_avg double precision check (resolution_seconds_avg >= 0),
    satisfaction_score double precision check (satisfaction_score between 0 and 5),
    trend           performance_trend not null default 'FLAT',
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, representative_id, period, period_start),
    foreign key (organization_id, representative_id) references representatives (organization_id, id) on delete cascade
);

alter table team_performance enable row level security;
alter table team_performance force row level security;
create policy tenant on team_performance for all to tenantry_app
    using (organization_id = app.current_org()) with check (organization_id = app.current_org());
create policy superadmin on team_performance for all to tenantry_superadmin using (true) with check (true);
grant select on team_performance to tenantry_app;
grant all on team_performance to tenantry_superadmin;

create index team_performance_created_at_idx on team_performance (organization_id, created_at, id);
create index team_performance_period_start_idx on team_performance (organization_id, period_start, id);
create index team_performance_representative_id_idx on team_performance (organization_id, representative_id, created_at, id);
create trigger touch_updated_at before update on team_performance for each row execute function app.touch_updated_at();

comment on table team_performance is 'Figures of a representative per period, computed by a job. Read only for the tenant.';
comment on column team_performance.period_start is 'First instant of the period, UTC.';
comment on column team_performance.resolution_seconds_avg is 'Seconds, pauses not counted; null: none in this period.';
comment on column team_performance.satisfaction_score is 'Mean rating, 0 to 5; null: nobody rated.';
comment on column team_performance.trend is 'Against the period before; UP is better.';
