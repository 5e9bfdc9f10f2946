//! Rules of who is told of escalations, and who gets them.

use async_graphql::{InputObject, MaybeUndefined};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::access::Action;
use crate::db::Conn;
use crate::error::Result;
use crate::escalations::{EscalationPriority, EscalationReason};
use crate::graphql::filter::{DateTimeFilter, StringFilter};
use crate::graphql::mutation::{
    Checks, Done, Mutation, UserErrorCode, VerbError, VerbResult, Work, after, check_version,
};
use crate::id::{EscalationRuleId, OrganizationId, RepresentativeId, UserId, marker};
use crate::members::{self, User};
use crate::representatives::{Representative, RepresentativeRole, require_representative};
use crate::{entity, listing, relations};

/// Most characters of a name, and most rules of an organization.
const MAX_NAME: usize = 100;
const MAX_RULES: i64 = 100;

entity! {
    /// A rule of who is told of escalations, and who gets them.
    #[graphql(complex)]
    pub struct EscalationRule("escalation_rules", read by OrganizationRead) {
        /// Unique id.
        pub id: EscalationRuleId,
        /// Name.
        pub name: String,
        /// Only escalations for this reason; null: for every reason.
        pub reason: Option<EscalationReason>,
        /// Only escalations of this priority or a higher one.
        pub minimum_priority: EscalationPriority,
        /// Every representative of this role is told; null: none.
        pub role: Option<RepresentativeRole>,
        /// The member who is told.
        #[graphql(skip)]
        pub user_id: Option<UserId>,
        /// Who gets it.
        #[graphql(skip)]
        pub assignee_id: Option<RepresentativeId>,
        /// Version; incremented by every change. Pass it as `expectedVersion`.
        pub version: i32,
        /// Time of creation.
        pub created_at: DateTime<Utc>,
        /// Time of the last change.
        pub updated_at: DateTime<Utc>,
    }
}

listing! {
    EscalationRule: EscalationRuleFilter, EscalationRuleOrder by EscalationRuleOrderField, default Name Asc;
    /// Name.
    name: StringFilter, Name;
    /// Time of creation.
    created_at: DateTimeFilter, CreatedAt;
}

relations! {
    EscalationRule {}
    one {
        /// The member who is told; null: none by name.
        user -> User by user_id;
        /// The representative who gets such escalations and is told, unless somebody is named or they are absent; null: nobody.
        assignee -> Representative by assignee_id;
    }
}

/// The representative who gets an escalation by the rules: of the most particular rule, which names the reason, then of the highest
/// priority. Who was removed or is absent gets none. They stay until the transaction ends.
///
/// # Errors
/// When the database cannot be reached.
pub async fn assignee(
    conn: &mut Conn,
    organization: OrganizationId,
    (reason, priority): (EscalationReason, EscalationPriority),
    now: DateTime<Utc>,
) -> Result<Option<RepresentativeId>> {
    let found = sqlx::query_scalar!(
        r#"select p.id as "id: RepresentativeId" from tenantry.escalation_rules r
             join tenantry.representatives p on p.organization_id = r.organization_id and p.id = r.assignee_id and p.deleted_at is null
            where r.organization_id = $1 and (r.reason is null or r.reason = $2) and r.minimum_priority <= $3
              and exists (select from tenantry.organization_members m
                           where m.organization_id = $1 and m.user_id = p.user_id and m.deleted_at is null)
              and not exists (select from tenantry.representative_absences a
                               where a.organization_id = $1 and a.representative_id = p.id and a.starts_at <= $4 and a.ends_at > $4)
            order by r.reason is null, r.minimum_priority desc, r.created_at, r.id limit 1 for share of p"#,
        organization as _,
        reason as _,
        priority as _,
        now
    )
    .fetch_optional(conn)
    .await?;
    Ok(found)
}

/// The fields of a new rule. It tells somebody (`role`, `userId`) or assigns to somebody (`assigneeId`).
#[derive(Clone, Debug, InputObject)]
pub struct EscalationRuleCreateInput {
    /// Name: 1 to 100 characters.
    pub name: String,
    /// Only escalations for this reason; every reason by default.
    pub reason: Option<EscalationReason>,
    /// Only escalations of this priority or a higher one; LOW by default.
    pub minimum_priority: Option<EscalationPriority>,
    /// Tells every representative of this role.
    pub role: Option<RepresentativeRole>,
    /// Tells this member.
    pub user_id: Option<UserId>,
    /// Assigns to this representative, and tells them, unless somebody is named.
    pub assignee_id: Option<RepresentativeId>,
}

/// The changes of a rule. Omitted fields stay as they are.
#[derive(Clone, Debug, InputObject)]
pub struct EscalationRuleUpdateInput {
    /// The rule.
    pub id: EscalationRuleId,
    /// Name: 1 to 100 characters.
    pub name: Option<String>,
    /// Only escalations for this reason; null: every reason.
    pub reason: MaybeUndefined<EscalationReason>,
    /// Only escalations of this priority or a higher one.
    pub minimum_priority: Option<EscalationPriority>,
    /// Tells every representative of this role; null: none.
    pub role: MaybeUndefined<RepresentativeRole>,
    /// Tells this member; null: none by name.
    pub user_id: MaybeUndefined<UserId>,
    /// Assigns to this representative, and tells them; null: to nobody.
    pub assignee_id: MaybeUndefined<RepresentativeId>,
    /// The version that the change is based on; another current version gives `VERSION_CONFLICT`.
    pub expected_version: Option<i32>,
}

/// Which rule to delete.
#[derive(Clone, Debug, InputObject)]
pub struct EscalationRuleDeleteInput {
    /// The rule.
    pub id: EscalationRuleId,
}

/// What a rule says, without its name.
struct Terms {
    reason: Option<EscalationReason>,
    minimum_priority: EscalationPriority,
    role: Option<RepresentativeRole>,
    user_id: Option<UserId>,
    assignee_id: Option<RepresentativeId>,
    version: i32,
}

impl Terms {
    fn shown(&self) -> Value {
        json!({
            "reason": self.reason,
            "minimumPriority": self.minimum_priority,
            "role": self.role,
            "userId": self.user_id.map(|id| id.to_string()),
            "assigneeId": self.assignee_id.map(|id| id.to_string()),
            "version": self.version,
        })
    }
}

/// Refuses a rule for nobody. Who is named must be there; they may leave later, and the rule then names nobody.
async fn check(
    work: &mut Work<'_>,
    terms: &Terms,
    user: Option<UserId>,
    assignee: Option<RepresentativeId>,
) -> VerbResult<()> {
    if terms.role.is_none() && terms.user_id.is_none() && terms.assignee_id.is_none() {
        let message = "A rule tells or assigns to somebody: give `role`, `userId` or `assigneeId`.";
        return Err(VerbError::of_input(UserErrorCode::Blank, message));
    }
    if let Some(user) = user {
        members::require_member(work.tx, "userId", user).await?;
    }
    require_representative(work.tx, "assigneeId", assignee).await?;
    Ok(())
}

impl Mutation for EscalationRuleCreateInput {
    type Row = marker::EscalationRule;
    const FIELD: &'static str = "escalationRuleCreate";
    const ACTION: Action = Action::EscalationConfigure;
    const AUDIT: &'static str = "escalation_rule.create";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let mut checks = Checks::default();
        let name = checks.required("name", &self.name, MAX_NAME);
        checks.finish()?;
        let terms = Terms {
            reason: self.reason,
            minimum_priority: self.minimum_priority.unwrap_or(EscalationPriority::Low),
            role: self.role,
            user_id: self.user_id,
            assignee_id: self.assignee_id,
            version: 1,
        };
        check(work, &terms, self.user_id, self.assignee_id).await?;
        let organization = work.tenant().organization_id;
        let known = sqlx::query_scalar!(
            r#"select count(*) as "count!" from tenantry.escalation_rules where organization_id = $1"#,
            organization as _
        )
        .fetch_one(work.tx.conn())
        .await?;
        if known >= MAX_RULES {
            let message = format!("An organization has at most {MAX_RULES} rules: delete one first.");
            return Err(VerbError::of_input(UserErrorCode::TooLong, message));
        }
        let id = work.new_id();
        sqlx::query!(
            "insert into tenantry.escalation_rules (organization_id, id, name, reason, minimum_priority, role, user_id, assignee_id, created_at, updated_at)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)",
            organization as _,
            id as _,
            name,
            terms.reason as _,
            terms.minimum_priority as _,
            terms.role as _,
            terms.user_id as _,
            terms.assignee_id as _,
            work.now
        )
        .execute(work.tx.conn())
        .await?;
        Ok(Done { id, audit: json!({ "after": terms.shown() }), event: None })
    }
}

async fn lock(work: &mut Work<'_>, id: EscalationRuleId) -> VerbResult<Terms> {
    let row = sqlx::query_as!(
        Terms,
        r#"select reason as "reason: EscalationReason", minimum_priority as "minimum_priority: EscalationPriority",
                  role as "role: RepresentativeRole", user_id as "user_id: UserId", assignee_id as "assignee_id: RepresentativeId", version
             from tenantry.escalation_rules where organization_id = $1 and id = $2 for update"#,
        work.tenant().organization_id as _,
        id as _
    )
    .fetch_optional(work.tx.conn())
    .await?;
    let missing = || VerbError::user("id", UserErrorCode::NotFound, "There is no such rule in this organization.");
    row.ok_or_else(missing)
}

impl Mutation for EscalationRuleUpdateInput {
    type Row = marker::EscalationRule;
    const FIELD: &'static str = "escalationRuleUpdate";
    const ACTION: Action = Action::EscalationConfigure;
    const AUDIT: &'static str = "escalation_rule.update";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let mut checks = Checks::default();
        let name = self.name.as_deref().map(|name| checks.required("name", name, MAX_NAME));
        checks.finish()?;
        let before = lock(work, self.id).await?;
        check_version(self.expected_version, before.version)?;
        let terms = Terms {
            reason: after(&self.reason, before.reason),
            minimum_priority: self.minimum_priority.unwrap_or(before.minimum_priority),
            role: after(&self.role, before.role),
            user_id: after(&self.user_id, before.user_id),
            assignee_id: after(&self.assignee_id, before.assignee_id),
            version: before.version + 1,
        };
        check(work, &terms, self.user_id.value().copied(), self.assignee_id.value().copied()).await?;
        sqlx::query!(
            "update tenantry.escalation_rules
                set name = coalesce($3, name), reason = $4, minimum_priority = $5, role = $6, user_id = $7, assignee_id = $8, version = version + 1
              where organization_id = $1 and id = $2",
            work.tenant().organization_id as _,
            self.id as _,
            name,
            terms.reason as _,
            terms.minimum_priority as _,
            terms.role as _,
            terms.user_id as _,
            terms.assignee_id as _
        )
        .execute(work.tx.conn())
        .await?;
        Ok(Done { id: self.id, audit: json!({ "before": before.shown(), "after": terms.shown() }), event: None })
    }
}

impl Mutation for EscalationRuleDeleteInput {
    type Row = marker::EscalationRule;
    const FIELD: &'static str = "escalationRuleDelete";
    const ACTION: Action = Action::EscalationConfigure;
    const AUDIT: &'static str = "escalation_rule.delete";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let before = lock(work, self.id).await?;
        sqlx::query!(
            "delete from tenantry.escalation_rules where organization_id = $1 and id = $2",
            work.tenant().organization_id as _,
            self.id as _
        )
        .execute(work.tx.conn())
        .await?;
        Ok(Done { id: self.id, audit: json!({ "before": before.shown() }), event: None })
    }
}
