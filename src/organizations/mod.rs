//! The organization: the tenant itself.
//!
//! Invariants: its slug is unique among all organizations; only name, contact and settings are the members' to change,
//! status and billing follow from elsewhere.

mod graphql;
mod lifecycle;

use chrono::{DateTime, Utc};
use serde_json::json;
use uuid::Uuid;

pub use graphql::{OrganizationMutation, OrganizationQuery, OrganizationUpdateInput};
pub use lifecycle::{RestorableOrganization, purge_due, restorable};

pub use crate::plans::OrganizationPlan;

use crate::access::Action;
use crate::db::{Db, SystemTx, TenantTx};
use crate::error::Result;
use crate::events::Event;
use crate::graphql::mutation::{Checks, Done, Mutation, MutationInfo, UserErrorCode, VerbResult, Work, check_version};
use crate::id::{Id, OrganizationId, marker};
use crate::tickets::search::SearchLanguage;
use crate::{entity, enum_filter, pg_enum};

enum_filter!(OrganizationPlan, OrganizationPlanFilter);

pg_enum! {
    /// The status of an organization.
    pub enum OrganizationStatus("tenantry.organization_status", OrganizationStatusFilter) {
        /// In good standing.
        Active = "ACTIVE",
        /// In a trial period.
        Trialing = "TRIALING",
        /// A payment is overdue.
        PastDue = "PAST_DUE",
        /// Access is suspended.
        Suspended = "SUSPENDED",
        /// The organization has left.
        Churned = "CHURNED",
    }
}

entity! {
    /// An organization: the tenant that everything else belongs to.
    #[graphql(complex)]
    pub struct Organization(global "organizations", read by OrganizationRead, listed when "t.deleted_at is null") {
        /// Unique id.
        pub id: OrganizationId,
        /// Name.
        pub name: String,
        /// Name in URLs: lower case letters, digits and hyphens.
        pub slug: String,
        /// Status.
        pub status: OrganizationStatus,
        /// Whether the organization is a personal workspace.
        pub is_personal: bool,
        /// Industry.
        pub industry: Option<String>,
        /// E-mail address for customers.
        pub support_email: Option<String>,
        /// Settings of client applications, as a JSON object.
        pub settings: serde_json::Value,
        /// The language that words of tickets are searched in.
        pub search_language: SearchLanguage,
        /// For how many minutes authors can change and delete their messages.
        pub message_edit_minutes: i32,
        /// After how many minutes without an answer a ticket goes back to the queue; null: never.
        pub requeue_minutes: Option<i32>,
        /// Whether tickets that nobody works on are assigned automatically.
        pub assigns_automatically: bool,
        /// In minor units.
        #[graphql(skip)]
        pub refund_four_eyes_minor: Option<i64>,
        /// Its currency.
        #[graphql(skip)]
        pub refund_four_eyes_currency: Option<String>,
        /// Version; incremented by every change. Pass it as `expectedVersion`.
        pub version: i32,
        /// Time of creation.
        pub created_at: DateTime<Utc>,
        /// Time of the last change.
        pub updated_at: DateTime<Utc>,
        /// Since when an operator has the organization suspended: it is read and not changed. Null: it is not.
        pub suspended_at: Option<DateTime<Utc>>,
        /// Why it is suspended.
        pub suspension_reason: Option<String>,
    }
}

/// A slug as the column takes it: lower case letters, digits and single hyphens, at most 63.
#[must_use]
pub fn slug(text: &str) -> Option<String> {
    let mut slug = String::new();
    for c in text.chars().take(400) {
        let c = c.to_ascii_lowercase();
        if c.is_ascii_alphanumeric() {
            slug.push(c);
        } else if c != '\'' && !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    slug.truncate(63);
    let slug = slug.trim_end_matches('-');
    (!slug.is_empty()).then(|| slug.to_owned())
}

/// The organization with this slug, or this id: ours or Clerk's.
///
/// # Errors
/// The database could not be asked.
pub async fn find_organization(db: &Db, name: &str) -> Result<Option<OrganizationId>> {
    let ours = OrganizationId::parse(name).map(Id::uuid).or_else(|_| Uuid::try_parse(name)).ok();
    let mut tx = SystemTx::begin(db).await?;
    Ok(sqlx::query_scalar!(
        r#"select id as "id: OrganizationId" from tenantry.organizations
            where id = $1 or slug = $2 or clerk_org_id = $2 order by slug <> $2 limit 1"#,
        ours,
        name
    )
    .fetch_optional(tx.conn())
    .await?)
}

/// Keeps others from changing members, keys and roles until the transaction ends, so that what is counted next is right; says
/// whether Clerk knows the organization.
///
/// # Errors
/// When the database cannot be reached.
pub async fn lock_organization(tx: &mut TenantTx) -> Result<bool> {
    let organization = tx.tenant().organization_id;
    Ok(sqlx::query_scalar!(
        r#"select clerk_org_id is not null as "known!" from tenantry.organizations where id = $1 for update"#,
        organization as _
    )
    .fetch_one(tx.conn())
    .await?)
}

/// The name and the wanted slug of the personal workspace of somebody with this given name: "John's Workspace",
/// `john-workspace`.
#[must_use]
pub fn personal_workspace(given: Option<&str>) -> (String, String) {
    // The column of the name takes 200 characters; the slug's 63 have room for a number.
    let begin = |chars| given.map(|given| given.chars().take(chars).collect::<String>());
    let name = begin(180).map_or_else(|| "Personal workspace".to_owned(), |given| format!("{given}'s Workspace"));
    let wanted = begin(40).as_deref().and_then(slug).and_then(|given| slug(&format!("{given}-workspace")));
    (name, wanted.unwrap_or_else(|| "personal-workspace".to_owned()))
}

/// Most bytes of `settings` as JSON.
const MAX_SETTINGS_BYTES: usize = 65_536;

impl Mutation for OrganizationUpdateInput {
    type Row = marker::Organization;
    const FIELD: &'static str = "organizationUpdate";
    const ACTION: Action = Action::OrganizationUpdate;
    const AUDIT: &'static str = "organization.update";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let mut checks = Checks::default();
        let name = self.name.as_deref().map(|name| checks.required("name", name, 200));
        let industry = self.industry.map_value(|text| checks.text("industry", text.trim(), 100));
        let support_email = self.support_email.map_value(|text| {
            let text = checks.text("supportEmail", text.trim(), 320);
            if !text.contains('@') || text.len() < 3 {
                checks.refuse("supportEmail", UserErrorCode::Invalid, "`supportEmail` must be an e-mail address.");
            }
            text
        });
        checks.object("settings", self.settings.as_ref(), MAX_SETTINGS_BYTES);
        checks.within("messageEditMinutes", self.message_edit_minutes, 0..=1440);
        checks.within("requeueMinutes", self.requeue_minutes.value().copied(), 1..=10_080);
        checks.finish()?;

        let organization = work.tenant().organization_id;
        let before = sqlx::query!(
            "select name, industry, support_email, version from tenantry.organizations where id = $1 for update",
            organization as _
        )
        .fetch_one(work.tx.conn())
        .await?;
        check_version(self.expected_version, before.version)?;
        sqlx::query!(
            "update tenantry.organizations
                set name = coalesce($2, name),
                    industry = case when $3 then $4 else industry end,
                    support_email = case when $5 then $6 else support_email end,
                    settings = coalesce($7, settings),
                    search_language = coalesce($8, search_language),
                    message_edit_minutes = coalesce($9, message_edit_minutes),
                    requeue_minutes = case when $10 then $11 else requeue_minutes end,
                    assigns_automatically = coalesce($12, assigns_automatically),
                    version = version + 1
              where id = $1",
            organization as _,
            name,
            !industry.is_undefined(),
            industry.value().filter(|text| !text.is_empty()),
            !support_email.is_undefined(),
            support_email.value(),
            self.settings,
            self.search_language as _,
            self.message_edit_minutes,
            !self.requeue_minutes.is_undefined(),
            self.requeue_minutes.value().copied(),
            self.assigns_automatically
        )
        .execute(work.tx.conn())
        .await?;
        Ok(Done {
            id: organization,
            audit: json!({ "before": { "name": before.name, "industry": before.industry, "supportEmail": before.support_email } }),
            event: Some(Event::of(organization)),
        })
    }
}

/// The mutations of the slice.
pub const MUTATIONS: &[MutationInfo] = &[
    MutationInfo::of::<OrganizationUpdateInput>(),
    MutationInfo { field: "organizationCreate", action: None, audit: CREATED, row: "Organization" },
    MutationInfo::of::<lifecycle::OrganizationDeleteInput>(),
    MutationInfo { field: "organizationRestore", action: None, audit: lifecycle::RESTORED, row: "Organization" },
    MutationInfo { field: "organizationSuspend", action: None, audit: lifecycle::SUSPENDED, row: "Organization" },
    MutationInfo { field: "organizationReactivate", action: None, audit: lifecycle::REACTIVATED, row: "Organization" },
];

/// What the audit log calls a new organization.
const CREATED: &str = "organization.create";
