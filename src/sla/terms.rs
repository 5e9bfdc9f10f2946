//! Which terms a ticket is under, and how its clocks come to those of today.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

use crate::db::Conn;
use crate::error::{Error, Result};
use crate::id::{CustomerId, OrganizationId, SlaPolicyId};
use crate::sla::clocks::{Clocks, SlaReaction, Terms, Under};
use crate::sla::hours::{Hours, Written};
use crate::tickets::{TicketCategory, TicketPriority};

/// The terms that a ticket comes under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matching {
    /// `None`: the built-in terms.
    pub under: Option<Under>,
    pub terms: Terms,
}

/// What a policy promised from when on.
#[derive(Clone, Debug)]
pub(super) struct Revision {
    pub number: i32,
    pub valid_from: DateTime<Utc>,
    pub terms: Terms,
}

/// A row of `sla_revisions`.
struct Row {
    policy: SlaPolicyId,
    revision: i32,
    valid_from: DateTime<Utc>,
    first_response_minutes: Option<i32>,
    next_response_minutes: Option<i32>,
    resolution_minutes: Option<i32>,
    warning_percent: Option<i32>,
    on_warning: SlaReaction,
    on_breach: SlaReaction,
    calendar: Option<Value>,
}

impl Row {
    fn read(self) -> Result<(SlaPolicyId, Revision)> {
        let hours = |calendar: Value| -> Result<Hours> {
            let written: Written = serde_json::from_value(calendar).map_err(Error::internal)?;
            written.read().ok_or_else(|| Error::internal("a calendar has an unknown time zone"))
        };
        let minutes = |minutes: Option<i32>| minutes.map(|minutes| TimeDelta::minutes(minutes.into()));
        let terms = Terms {
            hours: self.calendar.map(hours).transpose()?,
            first_response: minutes(self.first_response_minutes),
            next_response: minutes(self.next_response_minutes),
            resolution: minutes(self.resolution_minutes),
            warning_percent: self.warning_percent,
            on_warning: self.on_warning,
            on_breach: self.on_breach,
        };
        Ok((self.policy, Revision { number: self.revision, valid_from: self.valid_from, terms }))
    }
}

/// The terms for a ticket of this kind: of the first policy that matches, else the built-in ones.
///
/// # Errors
/// When the database cannot be reached.
pub async fn matching(
    conn: &mut Conn,
    organization: OrganizationId,
    priority: TicketPriority,
    category: TicketCategory,
    customer: Option<CustomerId>,
) -> Result<Matching> {
    let row = sqlx::query_as!(
        Row,
        r#"select r.policy_id as "policy: SlaPolicyId", r.revision, r.valid_from, r.first_response_minutes, r.next_response_minutes,
                  r.resolution_minutes, r.warning_percent, r.on_warning as "on_warning: SlaReaction", r.on_breach as "on_breach: SlaReaction", r.calendar
             from tenantry.sla_policies p
             join tenantry.sla_revisions r on r.organization_id = p.organization_id and r.policy_id = p.id and r.revision = p.revision
            where p.organization_id = $1 and p.archived_at is null
              and (p.priorities = '{}' or $2 = any (p.priorities)) and (p.categories = '{}' or $3 = any (p.categories))
              and (p.tiers = '{}' or exists (select from tenantry.customer_profiles c
                                              where c.organization_id = $1 and c.id = $4 and c.tier = any (p.tiers)))
            order by p.rank, p.created_at, p.id limit 1"#,
        organization as _,
        priority as _,
        category as _,
        customer as _
    )
    .fetch_optional(conn)
    .await?;
    let Some(row) = row else { return Ok(Matching { under: None, terms: Terms::built_in(priority) }) };
    let (policy, Revision { number: revision, terms, .. }) = row.read()?;
    Ok(Matching { under: Some(Under { policy, revision }), terms })
}

/// The revisions of policies from the given ones on, in order.
pub(super) async fn revisions(
    conn: &mut Conn,
    organization: OrganizationId,
    from: &[Under],
) -> Result<Vec<(SlaPolicyId, Revision)>> {
    let (policies, first): (Vec<_>, Vec<_>) = from.iter().map(|under| (under.policy, under.revision)).unzip();
    let rows = sqlx::query_as!(
        Row,
        r#"select r.policy_id as "policy: SlaPolicyId", r.revision, r.valid_from, r.first_response_minutes, r.next_response_minutes,
                  r.resolution_minutes, r.warning_percent, r.on_warning as "on_warning: SlaReaction", r.on_breach as "on_breach: SlaReaction", r.calendar
             from unnest($2::uuid[], $3::int[]) as f (policy_id, revision)
             join tenantry.sla_revisions r on r.organization_id = $1 and r.policy_id = f.policy_id and r.revision >= f.revision
            order by r.policy_id, r.revision"#,
        organization as _,
        &policies as _,
        &first
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(Row::read).collect()
}

/// The clocks under the newest of these revisions of their policy, each from when it was valid on, and that revision.
pub(super) fn advanced(
    mut clocks: Clocks,
    under: Under,
    revisions: &[Revision],
    created_at: DateTime<Utc>,
) -> Result<(Clocks, &Revision)> {
    let mut later = revisions.iter().skip_while(|revision| revision.number < under.revision);
    let Some(mut now) = later.next() else {
        return Err(Error::internal("a ticket is under a revision that is not there"));
    };
    for next in later {
        let under = Some(Under { policy: under.policy, revision: next.number });
        clocks = clocks.under_terms(&now.terms, under, &next.terms, next.valid_from, created_at);
        now = next;
    }
    Ok((clocks, now))
}

/// Brings the clocks of a ticket to what its policy promises now, and answers the terms of that.
///
/// # Errors
/// When the database cannot be reached.
pub async fn catch_up(
    conn: &mut Conn,
    organization: OrganizationId,
    clocks: Clocks,
    priority: TicketPriority,
    created_at: DateTime<Utc>,
) -> Result<(Clocks, Terms)> {
    let Some(under) = clocks.under else { return Ok((clocks, Terms::built_in(priority))) };
    let revisions = revisions(conn, organization, &[under]).await?;
    let revisions: Vec<Revision> = revisions.into_iter().map(|(_, revision)| revision).collect();
    let (clocks, now) = advanced(clocks, under, &revisions, created_at)?;
    Ok((clocks, now.terms.clone()))
}
