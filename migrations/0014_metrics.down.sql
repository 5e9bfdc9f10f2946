drop trigger mark_hours_of_new on tenantry.representatives;
drop trigger mark_hours on tenantry.refunds;
drop trigger mark_hours_of_old on tenantry.refunds;
drop trigger mark_hours_of_new on tenantry.refunds;
drop trigger mark_hours on tenantry.escalations;
drop trigger mark_hours_of_old on tenantry.escalations;
drop trigger mark_hours_of_new on tenantry.escalations;
drop trigger mark_hours on tenantry.ticket_messages;
drop trigger mark_hours_of_old on tenantry.ticket_messages;
drop trigger mark_hours_of_new on tenantry.ticket_messages;
drop trigger mark_hours on tenantry.tickets;
drop trigger mark_hours_of_old on tenantry.tickets;
drop trigger mark_hours_of_new on tenantry.tickets;
drop function tenantry.mark_representative_hours();
drop function tenantry.mark_refund_hours();
drop function tenantry.mark_message_hours();
drop function tenantry.mark_ticket_hours();
drop function tenantry.mark_hours(uuid, timestamptz[]);
drop table tenantry.metric_marks;
alter table tenantry.team_performance
    drop column tickets_resolved,
    drop column first_responses,
    drop column messages_sent,
    drop column first_response_seconds_avg,
    drop column first_response_seconds_p50,
    drop column first_response_seconds_p90,
    drop column first_response_seconds_p95,
    drop column first_response_seconds_p99,
    drop column resolution_seconds_p50,
    drop column resolution_seconds_p90,
    drop column resolution_seconds_p95,
    drop column resolution_seconds_p99,
    drop column tickets_handled_trend;
alter table tenantry.performance_metrics
    drop column first_responses,
    drop column refund_totals,
    drop column first_response_seconds_p50,
    drop column first_response_seconds_p90,
    drop column first_response_seconds_p95,
    drop column first_response_seconds_p99,
    drop column resolution_seconds_p50,
    drop column resolution_seconds_p90,
    drop column resolution_seconds_p95,
    drop column resolution_seconds_p99,
    drop column first_response_trend,
    drop column tickets_resolved_trend;
drop index tenantry.refunds_settled_at_idx;
drop index tenantry.ticket_messages_sent_idx;
drop index tenantry.tickets_first_responded_at_idx;
drop index tenantry.tickets_resolved_at_idx;
drop trigger take_pause on tenantry.tickets;
drop function tenantry.take_pause_of_first_response();
alter table tenantry.tickets drop column first_response_paused_seconds;
comment on column tenantry.performance_metrics.refund_total_minor is 'Settled refunds in minor units of currency (cents).';
comment on column tenantry.performance_metrics.currency is null;
comment on column tenantry.performance_metrics.messages_sent is 'Public messages of representatives and agents.';
comment on column tenantry.team_performance.tickets_handled is null;
comment on column tenantry.team_performance.satisfaction_score is 'Mean rating, 0 to 5; null: nobody rated.';
comment on column tenantry.team_performance.trend is 'Against the period before; UP is better.';
alter table tenantry.jobs
    drop column last_succeeded_at,
    drop column failures,
    drop column done,
    drop column seconds;
