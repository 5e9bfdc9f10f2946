//! What the clocks do by themselves: warnings, breaches, and the way of running clocks to what their policies promise now.
//!
//! Tickets are found by `sla_check_at`, and by the revision that was superseded; no other ticket is read.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde_json::json;

use crate::clock::Clock;
use crate::db::{Db, SystemTx};
use crate::error::Result;
use crate::escalations::{self, EscalationPriority, EscalationReason, Opening};
use crate::events::{self, Event};
use crate::id::{OrganizationId, SlaEventId, SlaPolicyId, TicketId};
use crate::sla::clocks::{Clocks, Happened, NEVER_LOOKED_AT, SlaEventKind, SlaReaction, SlaTarget, Terms, Under};
use crate::sla::terms::{Revision, advanced, revisions};
use crate::tickets::TicketPriority;
use crate::trail::{self, AuditEntry};
use crate::turns;

/// Tickets in one transaction.
const BATCH: i64 = 500;

/// The job of the service levels: finds what is near its deadline or past it, and brings running clocks to policies that changed.
/// Says how many tickets it looked at.
///
/// # Errors
/// As [`turns::by_organization`].
pub async fn watch(db: &Db, clock: &Clock) -> Result<u64> {
    let now = clock.now();
    turns::by_organization(
        db,
        "service-levels",
        |tx, after| Box::pin(organizations_with_work(tx, after, now)),
        |organization| watch_some(db, clock, organization),
    )
    .await
}

async fn organizations_with_work(
    tx: &mut SystemTx,
    after: OrganizationId,
    now: DateTime<Utc>,
) -> Result<Vec<OrganizationId>> {
    Ok(sqlx::query_scalar!(
        r#"select o.id as "id: OrganizationId" from tenantry.organizations o
            where o.id > $1 and o.deleted_at is null and o.suspended_at is null
              and (exists (select from tenantry.tickets t where t.organization_id = o.id and t.sla_check_at <= $2)
                   or exists (select from tenantry.sla_revisions r
                               where r.organization_id = o.id and r.superseded_at is not null and r.drained_at is null))
            order by o.id limit $3"#,
        after as _,
        now,
        turns::PAGE
    )
    .fetch_all(tx.conn())
    .await?)
}

/// A ticket whose clocks are looked at.
struct Row {
    id: TicketId,
    priority: TicketPriority,
    created_at: DateTime<Utc>,
    is_new: bool,
    clocks: Clocks,
}

/// What is written to a ticket.
struct Seen {
    id: TicketId,
    before: Clocks,
    clocks: Clocks,
    happened: Vec<Happened>,
    on_warning: SlaReaction,
    on_breach: SlaReaction,
    is_new: bool,
    priority: TicketPriority,
}

impl Seen {
    /// The first deadline that was missed, if one was now.
    fn missed(&self) -> Option<DateTime<Utc>> {
        let breaches = self.happened.iter().filter(|happened| happened.kind == SlaEventKind::Breach);
        breaches.map(|breach| breach.due_at).min()
    }

    /// Whether there is something new to see: a deadline that was missed, or deadlines that moved.
    fn has_changed(&self) -> bool {
        self.before.under != self.clocks.under || (self.missed().is_some() && !self.is_new)
    }
}

async fn watch_some(db: &Db, clock: &Clock, organization: OrganizationId) -> Result<u64> {
    let mut tx = SystemTx::begin(db).await?;
    // Whoever removes a representative locks them and then their tickets; an escalation takes them the other way round. This job
    // gives up before the server finds two that wait for each other, and comes again.
    sqlx::query!("select set_config('lock_timeout', '500ms', true)").fetch_one(tx.conn()).await?;
    let now = clock.now();
    let mut rows = due(&mut tx, organization, now).await?;
    if rows.is_empty() {
        rows = behind(&mut tx, organization, now).await?;
    }
    if rows.is_empty() {
        tx.commit().await?;
        return Ok(0);
    }
    let seen = look(&mut tx, organization, &rows, now).await?;
    write(&mut tx, clock, organization, &seen, now).await?;
    tx.commit().await?;
    Ok(u64::try_from(rows.len()).unwrap_or(u64::MAX))
}

/// The columns that both ways of finding tickets read.
macro_rules! tickets {
    ($tx:expr, $where:literal, $($bind:expr),+) => {
        sqlx::query!(
            r#"select t.id as "id: TicketId", t.priority as "priority: TicketPriority", t.created_at, t.sla_policy_id as "policy: SlaPolicyId",
                      t.sla_revision, t.first_response_due_at, t.first_responded_at, t.next_response_since, t.next_response_due_at,
                      t.resolution_due_at, t.sla_paused_at, t.sla_paused_seconds, t.resolved_at, t.closed_at, t.sla_check_at
                 from tenantry.tickets t where "# + $where,
            $($bind),+
        )
        .fetch_all($tx.conn())
        .await?
        .into_iter()
        .map(|row| Row {
            id: row.id,
            priority: row.priority,
            created_at: row.created_at,
            is_new: row.sla_check_at == Some(NEVER_LOOKED_AT),
            clocks: Clocks {
                under: row.policy.zip(row.sla_revision).map(|(policy, revision)| Under { policy, revision }),
                first_response_due_at: row.first_response_due_at,
                first_responded_at: row.first_responded_at,
                next_response_since: row.next_response_since,
                next_response_due_at: row.next_response_due_at,
                resolution_due_at: row.resolution_due_at,
                sla_paused_at: row.sla_paused_at,
                sla_paused_seconds: row.sla_paused_seconds,
                resolved_at: row.resolved_at,
                closed_at: row.closed_at,
                sla_check_at: row.sla_check_at,
            },
        })
        .collect::<Vec<Row>>()
    };
}

async fn due(tx: &mut SystemTx, organization: OrganizationId, now: DateTime<Utc>) -> Result<Vec<Row>> {
    Ok(tickets!(
        tx,
        "t.organization_id = $1 and t.sla_check_at <= $2 order by t.sla_check_at limit $3 for no key update skip locked",
        organization as _,
        now,
        BATCH
    ))
}

/// Tickets under a revision that another took the place of; notes of which revisions there are none left.
async fn behind(tx: &mut SystemTx, organization: OrganizationId, now: DateTime<Utc>) -> Result<Vec<Row>> {
    let superseded = sqlx::query!(
        r#"select policy_id as "policy: SlaPolicyId", revision from tenantry.sla_revisions
            where organization_id = $1 and superseded_at is not null and drained_at is null
            order by policy_id, revision"#,
        organization as _
    )
    .fetch_all(tx.conn())
    .await?;
    for old in superseded {
        let rows = tickets!(
            tx,
            "t.organization_id = $1 and t.sla_policy_id = $2 and t.sla_revision = $3 and t.closed_at is null limit $4 for no key update skip locked",
            organization as _,
            old.policy as _,
            old.revision,
            BATCH
        );
        if !rows.is_empty() {
            return Ok(rows);
        }
        // One that somebody holds at this moment is brought along by its next look.
        sqlx::query!(
            "update tenantry.sla_revisions set drained_at = $4 where organization_id = $1 and policy_id = $2 and revision = $3",
            organization as _,
            old.policy as _,
            old.revision,
            now
        )
        .execute(tx.conn())
        .await?;
    }
    Ok(Vec::new())
}

/// Reckons what became of each ticket.
async fn look(tx: &mut SystemTx, organization: OrganizationId, rows: &[Row], now: DateTime<Utc>) -> Result<Vec<Seen>> {
    let mut first: BTreeMap<SlaPolicyId, i32> = BTreeMap::new();
    for under in rows.iter().filter_map(|row| row.clocks.under) {
        let from = first.entry(under.policy).or_insert(under.revision);
        *from = under.revision.min(*from);
    }
    let first: Vec<Under> = first.into_iter().map(|(policy, revision)| Under { policy, revision }).collect();
    let mut promised: BTreeMap<SlaPolicyId, Vec<Revision>> = BTreeMap::new();
    for (policy, revision) in revisions(tx.conn(), organization, &first).await? {
        promised.entry(policy).or_default().push(revision);
    }
    let ids: Vec<TicketId> = rows.iter().map(|row| row.id).collect();
    let known: BTreeSet<_> = sqlx::query!(
        r#"select ticket_id as "ticket: TicketId", target as "target: SlaTarget", kind as "kind: SlaEventKind", started_at
             from tenantry.sla_events where organization_id = $1 and ticket_id = any($2)"#,
        organization as _,
        &ids as _
    )
    .fetch_all(tx.conn())
    .await?
    .into_iter()
    .map(|row| (row.ticket, row.target, row.kind, row.started_at))
    .collect();
    let mut seen = Vec::with_capacity(rows.len());
    for row in rows {
        let built_in = Terms::built_in(row.priority);
        let (mut clocks, terms) = match row.clocks.under {
            None => (row.clocks, &built_in),
            Some(under) => {
                let revisions = promised.get(&under.policy).map(Vec::as_slice).unwrap_or_default();
                let (clocks, now) = advanced(row.clocks, under, revisions, row.created_at)?;
                (clocks, &now.terms)
            }
        };
        let (happened, check_at) = clocks
            .look(terms, row.created_at, now, |target, kind, since| known.contains(&(row.id, target, kind, since)));
        clocks.sla_check_at = check_at;
        let (before, is_new, priority) = (row.clocks, row.is_new, row.priority);
        let (on_warning, on_breach) = (terms.on_warning, terms.on_breach);
        seen.push(Seen { id: row.id, before, clocks, happened, on_warning, on_breach, is_new, priority });
    }
    Ok(seen)
}

async fn write(
    tx: &mut SystemTx,
    clock: &Clock,
    organization: OrganizationId,
    seen: &[Seen],
    now: DateTime<Utc>,
) -> Result<()> {
    write_clocks(tx, organization, seen).await?;
    let mut told = Vec::new();
    told.extend(seen.iter().filter(|ticket| ticket.has_changed()).map(|ticket| (organization, Event::of(ticket.id))));
    let all: Vec<(&Seen, &Happened, SlaEventId)> = seen
        .iter()
        .flat_map(|ticket| ticket.happened.iter().map(move |happened| (ticket, happened, SlaEventId::new(clock))))
        .collect();
    write_events(tx, organization, &all, now).await?;
    for (ticket, happened, id) in all.into_iter().filter(|(ticket, ..)| !ticket.is_new) {
        let (action, reaction) = match happened.kind {
            SlaEventKind::Warning => ("ticket.sla_warning", ticket.on_warning),
            SlaEventKind::Breach => ("ticket.sla_breach", ticket.on_breach),
        };
        let metadata = json!({ "target": happened.target, "dueAt": happened.due_at, "eventId": id.to_string() });
        trail::record_of_system(tx, clock, organization, &AuditEntry::of(action, ticket.id, metadata)).await?;
        if reaction.tells() {
            told.push((organization, Event::of(id)));
        }
        if reaction.escalates() {
            told.extend(escalate(tx, clock, organization, ticket, now).await?);
        }
    }
    events::tell(tx, &told).await
}

/// Writes the clocks back, all at once.
async fn write_clocks(tx: &mut SystemTx, organization: OrganizationId, seen: &[Seen]) -> Result<()> {
    let ids: Vec<TicketId> = seen.iter().map(|ticket| ticket.id).collect();
    let under: Vec<Option<Under>> = seen.iter().map(|ticket| ticket.clocks.under).collect();
    let policies: Vec<Option<SlaPolicyId>> = under.iter().map(|under| under.map(|under| under.policy)).collect();
    let revisions: Vec<Option<i32>> = under.iter().map(|under| under.map(|under| under.revision)).collect();
    let times =
        |of: fn(&Seen) -> Option<DateTime<Utc>>| -> Vec<Option<DateTime<Utc>>> { seen.iter().map(of).collect() };
    // The version grows with what people are to see.
    let has_changed: Vec<bool> = seen.iter().map(Seen::has_changed).collect();
    sqlx::query!(
        "update tenantry.tickets t
            set sla_policy_id = s.policy_id, sla_revision = s.revision, first_response_due_at = s.first_due, next_response_due_at = s.next_due,
                resolution_due_at = s.resolution_due, sla_check_at = s.check_at, sla_breached_at = coalesce(t.sla_breached_at, s.breached_at),
                version = t.version + s.has_changed::int
           from unnest($2::uuid[], $3::uuid[], $4::int[], $5::timestamptz[], $6::timestamptz[], $7::timestamptz[], $8::timestamptz[],
                       $9::timestamptz[], $10::bool[])
                as s (id, policy_id, revision, first_due, next_due, resolution_due, check_at, breached_at, has_changed)
          where t.organization_id = $1 and t.id = s.id",
        organization as _,
        &ids as _,
        &policies as _,
        &revisions as _,
        &times(|ticket| ticket.clocks.first_response_due_at) as _,
        &times(|ticket| ticket.clocks.next_response_due_at) as _,
        &times(|ticket| ticket.clocks.resolution_due_at) as _,
        &times(|ticket| ticket.clocks.sla_check_at) as _,
        &times(Seen::missed) as _,
        &has_changed
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

async fn write_events(
    tx: &mut SystemTx,
    organization: OrganizationId,
    all: &[(&Seen, &Happened, SlaEventId)],
    now: DateTime<Utc>,
) -> Result<()> {
    if all.is_empty() {
        return Ok(());
    }
    let ids: Vec<SlaEventId> = all.iter().map(|(_, _, id)| *id).collect();
    let tickets: Vec<TicketId> = all.iter().map(|(ticket, ..)| ticket.id).collect();
    let targets: Vec<&str> = all.iter().map(|(_, happened, _)| happened.target.label()).collect();
    let kinds: Vec<&str> = all.iter().map(|(_, happened, _)| happened.kind.label()).collect();
    let policies: Vec<Option<SlaPolicyId>> =
        all.iter().map(|(ticket, ..)| ticket.clocks.under.map(|under| under.policy)).collect();
    let starts: Vec<DateTime<Utc>> = all.iter().map(|(_, happened, _)| happened.since).collect();
    let deadlines: Vec<DateTime<Utc>> = all.iter().map(|(_, happened, _)| happened.due_at).collect();
    let silent: Vec<bool> = all.iter().map(|(ticket, ..)| ticket.is_new).collect();
    sqlx::query!(
        "insert into tenantry.sla_events (organization_id, id, ticket_id, target, kind, policy_id, started_at, due_at, is_silent, created_at)
         select $1, e.id, e.ticket_id, e.target::tenantry.sla_target, e.kind::tenantry.sla_event_kind, e.policy_id, e.started_at, e.due_at, e.is_silent, $10
           from unnest($2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::uuid[], $7::timestamptz[], $8::timestamptz[], $9::bool[])
                as e (id, ticket_id, target, kind, policy_id, started_at, due_at, is_silent)",
        organization as _,
        &ids as _,
        &tickets as _,
        &targets as _,
        &kinds as _,
        &policies as _,
        &starts,
        &deadlines,
        &silent,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

const fn escalated(priority: TicketPriority) -> EscalationPriority {
    match priority {
        TicketPriority::Low => EscalationPriority::Low,
        TicketPriority::Normal => EscalationPriority::Normal,
        TicketPriority::High => EscalationPriority::High,
        TicketPriority::Urgent => EscalationPriority::Urgent,
    }
}

/// Escalates a ticket whose policy says so, unless it is for this reason already.
async fn escalate(
    tx: &mut SystemTx,
    clock: &Clock,
    organization: OrganizationId,
    ticket: &Seen,
    now: DateTime<Utc>,
) -> Result<Vec<(OrganizationId, Event)>> {
    let (reason, priority) = (EscalationReason::SlaBreach, escalated(ticket.priority));
    let assignee = escalations::assignee(tx.conn(), organization, (reason, priority), now).await?;
    let opening = Opening {
        ticket: ticket.id,
        reason,
        priority,
        note: None,
        assignee,
        is_automatic: assignee.is_some(),
        due_at: None,
        by: None,
    };
    let opened = escalations::open(tx.conn(), clock, organization, now, &opening).await?;
    let Some(opened) = opened else { return Ok(Vec::new()) };
    let entry = AuditEntry::of(escalations::CREATED, opened.id, opened.shown(&opening));
    trail::record_of_system(tx, clock, organization, &entry).await?;
    let entry = AuditEntry::of(escalations::TICKET_ESCALATED, ticket.id, opened.of_ticket(&opening));
    trail::record_of_system(tx, clock, organization, &entry).await?;
    let told = opened.notices.iter().map(|notice| Event::of(*notice));
    Ok([Event::of(opened.id)].into_iter().chain(told).map(|event| (organization, event)).collect())
}
