//! Who becomes a representative, how they work, and who is one no more.

use serde_json::json;

use crate::access::Action;
use crate::escalations;
use crate::events::Event;
use crate::graphql::mutation::{Checks, Done, Mutation, UserErrorCode, VerbError, VerbResult, Work, check_version};
use crate::id::{RepresentativeId, TicketId, marker};
use crate::members;
use crate::representatives::graphql::{
    RepresentativeCreateInput, RepresentativeRemoveInput, RepresentativeStatusSetInput, RepresentativeUpdateInput,
};
use crate::representatives::{RepresentativeRole, RepresentativeStatus, no_representative, no_such_representative};
use crate::tickets::assignment;

/// Most skills of a representative, most characters of one, and the most open tickets.
const MAX_SKILLS: usize = 50;
const MAX_SKILL: usize = 50;
const MAX_CAPACITY: i32 = 1000;

/// Checks skills: each once, as they were given.
fn check_skills(checks: &mut Checks, skills: &[String]) -> Vec<String> {
    if skills.len() > MAX_SKILLS {
        let message = format!("A representative takes at most {MAX_SKILLS} skills; these are {}.", skills.len());
        checks.refuse("skills", UserErrorCode::TooLong, message);
        return Vec::new();
    }
    let mut known = Vec::new();
    for skill in skills {
        let skill = checks.required("skills", skill, MAX_SKILL);
        if !known.contains(&skill) {
            known.push(skill);
        }
    }
    known
}

fn check_capacity(checks: &mut Checks, capacity: i32) {
    if !(0..=MAX_CAPACITY).contains(&capacity) {
        let message = format!("`capacity` takes 0 to {MAX_CAPACITY}, not {capacity}.");
        checks.refuse("capacity", UserErrorCode::Invalid, message);
    }
}

impl Mutation for RepresentativeCreateInput {
    type Row = marker::Representative;
    const FIELD: &'static str = "representativeCreate";
    const ACTION: Action = Action::RepresentativeWrite;
    const AUDIT: &'static str = "representative.create";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let mut checks = Checks::default();
        let skills = check_skills(&mut checks, self.skills.as_deref().unwrap_or_default());
        let capacity = self.capacity.unwrap_or(10);
        check_capacity(&mut checks, capacity);
        checks.finish()?;
        let organization = work.tenant().organization_id;
        members::require_member(work.tx, "userId", self.user_id).await?;
        let role = self.role.unwrap_or(RepresentativeRole::Agent);
        let status = self.status.unwrap_or(RepresentativeStatus::Offline);
        // Who was one before has their row still; who is one stays as they are.
        let made = sqlx::query!(
            r#"insert into tenantry.representatives (organization_id, id, user_id, role, status, skills, capacity, created_at, updated_at)
               values ($1, $2, $3, $4, $5, $6, $7, $8, $8)
               on conflict (organization_id, user_id) do update
                  set role = excluded.role, status = excluded.status, skills = excluded.skills, capacity = excluded.capacity,
                      deleted_at = null, version = representatives.version + 1
                where representatives.deleted_at is not null
               returning id as "id: RepresentativeId", version"#,
            organization as _,
            work.new_id::<marker::Representative>() as _,
            self.user_id as _,
            role as _,
            status as _,
            &skills,
            capacity,
            work.now
        )
        .fetch_optional(work.tx.conn())
        .await?;
        let Some(made) = made else {
            let message = "The member is a representative already.";
            return Err(VerbError::user("userId", UserErrorCode::Conflict, message));
        };
        let audit = json!({
            "after": { "userId": self.user_id.to_string(), "role": role, "status": status, "skills": skills, "capacity": capacity },
            "again": made.version > 1,
        });
        Ok(Done { id: made.id, audit, event: Some(Event::of(made.id)) })
    }
}

/// What deciding about a change needs to know.
struct Locked {
    role: RepresentativeRole,
    status: RepresentativeStatus,
    skills: Vec<String>,
    capacity: i32,
    version: i32,
}

/// Locks a representative. Whoever only refers to them does not wait.
async fn lock(work: &mut Work<'_>, id: RepresentativeId) -> VerbResult<Locked> {
    let row = sqlx::query_as!(
        Locked,
        r#"select role as "role: RepresentativeRole", status as "status: RepresentativeStatus", skills, capacity, version
             from tenantry.representatives where organization_id = $1 and id = $2 and deleted_at is null for no key update"#,
        work.tenant().organization_id as _,
        id as _
    )
    .fetch_optional(work.tx.conn())
    .await?;
    row.ok_or_else(|| no_such_representative("id"))
}

impl Mutation for RepresentativeUpdateInput {
    type Row = marker::Representative;
    const FIELD: &'static str = "representativeUpdate";
    const ACTION: Action = Action::RepresentativeWrite;
    const AUDIT: &'static str = "representative.update";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let mut checks = Checks::default();
        let skills = self.skills.as_deref().map(|skills| check_skills(&mut checks, skills));
        if let Some(capacity) = self.capacity {
            check_capacity(&mut checks, capacity);
        }
        checks.finish()?;
        let before = lock(work, self.id).await?;
        check_version(self.expected_version, before.version)?;
        let (role, status) = (self.role.unwrap_or(before.role), self.status.unwrap_or(before.status));
        let skills = skills.unwrap_or_else(|| before.skills.clone());
        let capacity = self.capacity.unwrap_or(before.capacity);
        sqlx::query!(
            "update tenantry.representatives set role = $3, status = $4, skills = $5, capacity = $6, version = version + 1
              where organization_id = $1 and id = $2",
            work.tenant().organization_id as _,
            self.id as _,
            role as _,
            status as _,
            &skills,
            capacity
        )
        .execute(work.tx.conn())
        .await?;
        let audit = json!({
            "before": { "role": before.role, "status": before.status, "skills": before.skills, "capacity": before.capacity, "version": before.version },
            "after": { "role": role, "status": status, "skills": skills, "capacity": capacity, "version": before.version + 1 },
        });
        Ok(Done { id: self.id, audit, event: Some(Event::of(self.id)) })
    }
}

impl Mutation for RepresentativeStatusSetInput {
    type Row = marker::Representative;
    const FIELD: &'static str = "representativeStatusSet";
    const ACTION: Action = Action::RepresentativeStatusSet;
    const AUDIT: &'static str = "representative.status";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let tenant = work.tenant();
        let changed = sqlx::query!(
            r#"update tenantry.representatives n set status = $3, version = n.version + 1 from tenantry.representatives o
                where n.organization_id = $1 and n.user_id = $2 and n.deleted_at is null and o.organization_id = $1 and o.id = n.id
               returning n.id as "id: RepresentativeId", o.status as "before: RepresentativeStatus""#,
            tenant.organization_id as _,
            tenant.actor.user() as _,
            self.status as _
        )
        .fetch_optional(work.tx.conn())
        .await?
        .ok_or_else(no_representative)?;
        let audit = json!({ "before": { "status": changed.before }, "after": { "status": self.status } });
        Ok(Done { id: changed.id, audit, event: Some(Event::of(changed.id)) })
    }
}

impl Mutation for RepresentativeRemoveInput {
    type Row = marker::Representative;
    const FIELD: &'static str = "representativeRemove";
    const ACTION: Action = Action::RepresentativeWrite;
    const AUDIT: &'static str = "representative.remove";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let before = lock(work, self.id).await?;
        check_version(self.expected_version, before.version)?;
        let organization = work.tenant().organization_id;
        // In the order of all who assign: representatives, the desk, tickets, escalations.
        assignment::lock_desk(work.tx.conn(), organization).await?;
        sqlx::query!(
            "update tenantry.representatives set deleted_at = $3, status = 'OFFLINE', version = version + 1 where organization_id = $1 and id = $2",
            organization as _,
            self.id as _,
            work.now
        )
        .execute(work.tx.conn())
        .await?;
        let tickets = sqlx::query_scalar!(
            r#"with theirs as (
                   select id from tenantry.tickets where organization_id = $1 and assignee_id = $2 and status_rank < 4 order by id for update)
               update tenantry.tickets t set assignee_id = null, assigned_at = null, version = t.version + 1
                 from theirs where t.organization_id = $1 and t.id = theirs.id returning t.id as "id: TicketId""#,
            organization as _,
            self.id as _
        )
        .fetch_all(work.tx.conn())
        .await?;
        for ticket in &tickets {
            let change = json!({ "before": { "assigneeId": self.id.to_string() }, "after": { "assigneeId": null } });
            work.also("ticket.requeue", *ticket, change).await?;
        }
        let escalations = escalations::unassign_all(work, self.id).await?;
        let audit = json!({
            "before": { "role": before.role, "status": before.status, "version": before.version },
            "after": { "removedAt": work.now, "version": before.version + 1 },
            "tickets": tickets.len(),
            "escalations": escalations,
        });
        Ok(Done { id: self.id, audit, event: Some(Event::of(self.id)) })
    }
}
