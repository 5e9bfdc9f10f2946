//! Who is told of an escalation: whom the rules name, and whoever gets it. They watch the ticket from then on.

use async_graphql::InputObject;
use chrono::{DateTime, Utc};
use serde_json::json;
use uuid::Uuid;

use crate::access::Action;
use crate::clock::Clock;
use crate::db::Conn;
use crate::error::Result;
use crate::escalations::{Escalation, EscalationPriority, EscalationReason};
use crate::events::{self, Event};
use crate::graphql::filter::{DateTimeFilter, IdFilter};
use crate::graphql::mutation::{Done, Mutation, UserErrorCode, VerbError, VerbResult, Work};
use crate::id::{
    EscalationId, EscalationNoticeId, OrganizationId, RepresentativeId, TicketId, TicketWatcherId, UserId, marker,
};
use crate::members::User;
use crate::{entity, listing, relations};

entity! {
    /// A member who was told of an escalation.
    #[graphql(complex)]
    pub struct EscalationNotice("escalation_notices", read by OrganizationRead) {
        /// Unique id.
        pub id: EscalationNoticeId,
        /// The escalation.
        #[graphql(skip)]
        pub escalation_id: EscalationId,
        /// The member.
        #[graphql(skip)]
        pub user_id: UserId,
        /// When the member saw it; null: not yet.
        pub seen_at: Option<DateTime<Utc>>,
        /// When the member was told.
        pub created_at: DateTime<Utc>,
    }
}

listing! {
    EscalationNotice: EscalationNoticeFilter, EscalationNoticeOrder by EscalationNoticeOrderField, default CreatedAt Desc;
    /// The member.
    user_id: IdFilter;
    /// When the member saw it; `isNull: true` finds what is new.
    seen_at: DateTimeFilter;
    /// When the member was told.
    created_at: DateTimeFilter, CreatedAt;
}

relations! {
    EscalationNotice {}
    one {
        /// The escalation.
        escalation -> Escalation! by escalation_id;
        /// The member.
        user -> User! by user_id;
    }
}

/// What somebody is told of.
pub(super) struct Matter {
    pub id: EscalationId,
    pub ticket: TicketId,
    pub reason: EscalationReason,
    pub priority: EscalationPriority,
    /// Who has it.
    pub assignee: Option<RepresentativeId>,
}

/// Tells whom the rules name and who has it, except for who does it (`by`) and whoever was told before; they watch the ticket.
/// Answers who was told, and the notices, whose events the caller tells.
pub(super) async fn tell(
    conn: &mut Conn,
    clock: &Clock,
    (organization, by): (OrganizationId, Option<UserId>),
    now: DateTime<Utc>,
    matter: &Matter,
) -> Result<(Vec<UserId>, Vec<EscalationNoticeId>)> {
    let users = sqlx::query_scalar!(
        r#"select m.user_id as "user_id: UserId" from tenantry.organization_members m
            where m.organization_id = $1 and m.deleted_at is null and m.user_id is distinct from $5
              and not exists (select from tenantry.escalation_notices n
                               where n.organization_id = $1 and n.escalation_id = $2 and n.user_id = m.user_id)
              and (exists (select from tenantry.escalation_rules r
                            where r.organization_id = $1 and (r.reason is null or r.reason = $3) and r.minimum_priority <= $4
                              and (r.user_id = m.user_id
                                   or exists (select from tenantry.representatives p
                                               where p.organization_id = $1 and p.user_id = m.user_id and p.deleted_at is null and p.role = r.role)))
                   or exists (select from tenantry.representatives p
                               where p.organization_id = $1 and p.id = $6 and p.user_id = m.user_id and p.deleted_at is null))
            order by m.user_id"#,
        organization as _,
        matter.id as _,
        matter.reason as _,
        matter.priority as _,
        by as _,
        matter.assignee as _
    )
    .fetch_all(&mut *conn)
    .await?;
    let notices: Vec<EscalationNoticeId> = users.iter().map(|_| EscalationNoticeId::new(clock)).collect();
    let watchers: Vec<Uuid> = users.iter().map(|_| TicketWatcherId::new(clock).uuid()).collect();
    sqlx::query!(
        "with told as (
             insert into tenantry.escalation_notices (organization_id, id, escalation_id, user_id, created_at)
             select $1, n.id, $2, n.user_id, $7 from unnest($4::uuid[], $6::uuid[]) as n (id, user_id))
         insert into tenantry.ticket_watchers (organization_id, id, ticket_id, user_id, created_at)
         select $1, w.id, $3, w.user_id, $7 from unnest($5::uuid[], $6::uuid[]) as w (id, user_id) on conflict do nothing",
        organization as _,
        matter.id as _,
        matter.ticket as _,
        &notices as _,
        &watchers,
        &users as _,
        now
    )
    .execute(conn)
    .await?;
    Ok((users, notices))
}

/// As [`tell`], of what a viewer does; tells the events as well.
pub(super) async fn tell_of(work: &mut Work<'_>, matter: &Matter) -> Result<Vec<UserId>> {
    let tenant = work.tenant();
    let whose = (tenant.organization_id, tenant.actor.user());
    let (users, notices) = tell(work.tx.conn(), work.clock, whose, work.now, matter).await?;
    events::tell_more(work.tx, notices.into_iter().map(Event::of).collect()).await?;
    Ok(users)
}

/// The notice that was read.
#[derive(Clone, Debug, InputObject)]
pub struct EscalationNoticeSeeInput {
    /// The notice: one to the viewer.
    pub id: EscalationNoticeId,
}

impl Mutation for EscalationNoticeSeeInput {
    type Row = marker::EscalationNotice;
    const FIELD: &'static str = "escalationNoticeSee";
    const ACTION: Action = Action::TicketWatch;
    const AUDIT: &'static str = "escalation_notice.see";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let tenant = work.tenant();
        let seen = sqlx::query!(
            "update tenantry.escalation_notices set seen_at = coalesce(seen_at, $4) where organization_id = $1 and id = $2 and user_id = $3",
            tenant.organization_id as _,
            self.id as _,
            tenant.actor.user() as _,
            work.now
        )
        .execute(work.tx.conn())
        .await?;
        if seen.rows_affected() == 0 {
            let message = "There is no such notice to the viewer.";
            return Err(VerbError::user("id", UserErrorCode::NotFound, message));
        }
        Ok(Done { id: self.id, audit: json!({ "after": { "seenAt": work.now } }), event: Some(Event::of(self.id)) })
    }
}
