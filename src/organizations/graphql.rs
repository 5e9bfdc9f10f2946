//! `organization` with everything that belongs to it, `organizationCreate` and `organizationUpdate`.

use std::sync::Arc;

use async_graphql::{Context, InputObject, MaybeUndefined, Object, SimpleObject};
use chrono::{DateTime, Utc};
use serde_json::json;

use crate::access::IdentitySource;
use crate::agents::AgentConfiguration;
use crate::api_keys::ApiKey;
use crate::audit::AuditLog;
use crate::billing::{self, BillingAction, Invoice, Subscription};
use crate::budgets::{Budget, BudgetReservation};
use crate::client_keys::ClientKey;
use crate::customers::Customer;
use crate::db::{Admission, Founded, TenantTx, refuse};
use crate::entitlements::{self, Entitlement, Seats};
use crate::error::{Error, Result};
use crate::escalations::{Escalation, EscalationNotice, EscalationRule};
use crate::flags::{self, FeatureFlag, FeatureFlagOverride};
use crate::graphql::money::Money;
use crate::graphql::mutation::{self, Checks, UserError, UserErrorCode, VerbError, VerbResult};
use crate::graphql::session::Session;
use crate::id::{OrganizationId, OrganizationMemberId, marker};
use crate::members::{
    CustomRole, Invitation, MembershipRequest, OrganizationDomain, OrganizationMember, OrganizationSummary,
    ViewerMembership,
};
use crate::metrics::{self, MetricPeriod, PerformanceMetric, PerformanceSeries, SeriesInput, TeamPerformance};
use crate::organizations::lifecycle::{
    self, OrganizationDeleteInput, OrganizationDeletePayload, OrganizationReactivateInput, OrganizationRestoreInput,
    OrganizationRestorePayload, OrganizationSuspendInput, OrganizationSuspensionPayload,
};
use crate::organizations::{Organization, slug};
use crate::platform;
use crate::refunds::Refund;
use crate::relations;
use crate::representatives::{Representative, RepresentativeAbsence};
use crate::sla::{BusinessCalendar, SlaEvent, SlaPolicy};
use crate::support_access::SupportAccess;
use crate::tickets::search::SearchLanguage;
use crate::tickets::{self, Ticket, TicketCounts, TicketField, TicketFilter, TicketView};
use crate::trail::{self, AuditEntry};
use crate::webhook_events::WebhookEvent;

/// The root field of the slice.
#[derive(Debug, Default)]
pub struct OrganizationQuery;

#[Object]
impl OrganizationQuery {
    /// The organization of the request: the one the token was issued for, or the one `X-Organization-Id` names.
    async fn organization(&self, ctx: &Context<'_>) -> Result<Arc<Organization>> {
        Session::of(ctx)?.load_own::<marker::Organization>().await?.ok_or(Error::OrganizationNotFound)
    }
}

relations! {
    Organization {
        /// The members.
        members -> OrganizationMember;
        /// The custom roles.
        custom_roles -> CustomRole;
        /// The invitations. For administrators.
        invitations -> Invitation;
        /// The domains by which people join.
        domains -> OrganizationDomain;
        /// Who asked to join. For administrators.
        membership_requests -> MembershipRequest;
        /// The representatives, who work on tickets.
        representatives -> Representative;
        /// The absences of representatives.
        representative_absences -> RepresentativeAbsence;
        /// The customers.
        customers -> Customer;
        /// The tickets.
        tickets -> Ticket;
        /// The custom fields of tickets, in the order of forms.
        ticket_fields -> TicketField;
        /// The saved views of tickets: the viewer's own and those that are shared.
        ticket_views -> TicketView;
        /// The escalations.
        escalations -> Escalation;
        /// The rules of who is told of escalations.
        escalation_rules -> EscalationRule;
        /// Who was told of escalations.
        escalation_notices -> EscalationNotice;
        /// The calendars of business hours.
        business_calendars -> BusinessCalendar;
        /// The policies of what is promised for which tickets, in the order in which they are tried.
        sla_policies -> SlaPolicy;
        /// Warnings and breaches of service levels.
        sla_events -> SlaEvent;
        /// The refunds. For members and above.
        refunds -> Refund;
        /// The budgets, a row for each of their periods. For members and above.
        budgets -> Budget;
        /// The reservations from budgets. For members and above.
        budget_reservations -> BudgetReservation;
        /// The AI agents. For members and above.
        agent_configurations -> AgentConfiguration;
        /// The performance metrics by period. For members and above.
        performance_metrics -> PerformanceMetric;
        /// The performance metrics by representative and period. For members and above.
        team_performance -> TeamPerformance;
        /// The invoices for the subscription. For administrators.
        invoices -> Invoice;
        /// What was asked of Stripe. For administrators.
        billing_actions -> BillingAction;
        /// The API keys, without their secrets. For administrators.
        api_keys -> ApiKey;
        /// The overrides of feature flags.
        feature_flag_overrides -> FeatureFlagOverride;
        /// The client keys, without their private halves. For administrators.
        client_keys -> ClientKey;
        /// When operators of the platform looked into the organization. For administrators.
        support_accesses -> SupportAccess;
        /// The audit log. For administrators.
        audit_logs -> AuditLog;
        /// The webhook events of the organization. For administrators.
        webhook_events -> WebhookEvent;
    }

    /// Up to this amount whoever requests a refund may approve it (four eyes above); null: never.
    async fn refund_four_eyes_above(&self) -> Option<Money> {
        let currency = self.refund_four_eyes_currency.as_deref()?;
        self.refund_four_eyes_minor.map(|minor| Money::from_minor(minor, currency))
    }

    /// How many tickets there are: by status, priority and assignee, and how many are overdue. Counting takes time in proportion
    /// to their number.
    async fn ticket_counts(
        &self,
        ctx: &Context<'_>,
        #[graphql(name = "where", desc = "Only tickets that meet these conditions.")] filter: Option<Box<TicketFilter>>,
    ) -> Result<TicketCounts> {
        tickets::ticket_counts(ctx, filter).await
    }

    /// The performance metrics as a time series, for charts: every bucket of the range, by the calendar of a time zone. For members and
    /// above. It takes time in proportion to the tickets and messages of the range.
    async fn performance_series(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "A time in the first bucket.")] from: DateTime<Utc>,
        #[graphql(desc = "End of the range (exclusive): the last bucket holds the moment before. At most 400 days after `from`.")]
        to: DateTime<Utc>,
        #[graphql(desc = "Length of the buckets; at most 1,000 of them.")] bucket: MetricPeriod,
        #[graphql(
            default = "UTC",
            desc = "The time zone whose calendar the buckets follow: `UTC` or a name of the IANA database such as `Europe/Berlin`."
        )]
        time_zone: String,
    ) -> Result<PerformanceSeries> {
        metrics::performance_series(ctx, SeriesInput { from, to, bucket, time_zone }).await
    }

    /// Every feature flag, evaluated for the organization at this moment.
    async fn feature_flags(&self, ctx: &Context<'_>) -> Result<Vec<FeatureFlag>> {
        flags::feature_flags(ctx).await
    }

    /// What the organization may use, or could, and how much of it is used.
    async fn entitlements(&self, ctx: &Context<'_>) -> Result<Vec<Entitlement>> {
        entitlements::entitlements(ctx).await
    }

    /// One of `entitlements`; null when there is none with this key.
    async fn entitlement(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "`seats`, `budgets`, `api_calls`, or the key of a feature flag.")] key: String,
    ) -> Result<Option<Entitlement>> {
        entitlements::entitlement(ctx, &key).await
    }

    /// The seats of the members.
    async fn seats(&self, ctx: &Context<'_>) -> Result<Option<Seats>> {
        entitlements::seats(Session::of(ctx)?).await
    }

    /// The feature flag with this key, evaluated for the organization at this moment; null when there is none.
    async fn feature_flag(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The key.")] key: String,
    ) -> Result<Option<FeatureFlag>> {
        flags::feature_flag(ctx, &key).await
    }

    /// The subscription; null when the organization never had one.
    async fn subscription(&self, ctx: &Context<'_>) -> Result<Option<Subscription>> {
        billing::subscription(Session::of(ctx)?).await
    }
}

/// The changes of an organization. Omitted fields stay as they are.
#[derive(Clone, Debug, InputObject)]
pub struct OrganizationUpdateInput {
    /// Name: 1 to 200 characters.
    pub name: Option<String>,
    /// Industry: at most 100 characters; null or "" removes it.
    pub industry: MaybeUndefined<String>,
    /// E-mail address for customers; null removes it.
    pub support_email: MaybeUndefined<String>,
    /// Settings of client applications, replaced as a whole: a JSON object of at most 64 KiB.
    pub settings: Option<serde_json::Value>,
    /// The language that words of tickets are searched in. After a change, older tickets follow within minutes.
    pub search_language: Option<SearchLanguage>,
    /// For how many minutes authors can change and delete their messages: 0 to 1,440.
    pub message_edit_minutes: Option<i32>,
    /// After how many minutes without an answer a ticket goes back to the queue: 1 to 10,080; null: never.
    pub requeue_minutes: MaybeUndefined<i32>,
    /// Whether tickets that nobody works on are assigned automatically.
    pub assigns_automatically: Option<bool>,
    /// The version that the change is based on; another current version gives `VERSION_CONFLICT`.
    pub expected_version: Option<i32>,
}

/// The result of `organizationUpdate`.
#[derive(Debug, SimpleObject)]
pub struct OrganizationUpdatePayload {
    /// The updated organization; null when there are errors.
    pub organization: Option<Arc<Organization>>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The fields of a new organization.
#[derive(Clone, Debug, InputObject)]
pub struct OrganizationCreateInput {
    /// Name: 1 to 200 characters.
    pub name: String,
    /// Name in URLs: lower case letters, digits and single hyphens, 1 to 63. Without it, one follows from the name.
    pub slug: Option<String>,
}

/// The result of `organizationCreate`.
#[derive(Debug, SimpleObject)]
pub struct OrganizationCreatePayload {
    /// The viewer's membership in the new organization, as its owner; null when there are errors. Name it in
    /// `X-Organization-Id` to work in it.
    pub membership: Option<ViewerMembership>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// Makes an organization; the inner error is the caller's to mend.
async fn create(session: &Session, input: OrganizationCreateInput) -> VerbResult<ViewerMembership> {
    let (bearer, services) = (session.bearer().await?, session.services());
    // Who acts in the place of a user makes nothing that they own.
    if session.is_restricted() {
        return Err(Error::ImpersonationRestricted { action: "ORGANIZATION_CREATE" }.into());
    }
    if services.identity_source == IdentitySource::Clerk {
        let message = "Clerk decides about organizations: create it there, and it comes here.";
        return Err(VerbError::of_input(UserErrorCode::ManagedElsewhere, message));
    }
    let mut checks = Checks::default();
    let name = checks.required("name", &input.name, 200);
    let wanted = input.slug.as_deref().map(str::trim);
    if wanted.is_some_and(|wanted| slug(wanted).as_deref() != Some(wanted)) {
        let message = "`slug` takes lower case letters, digits and single hyphens between them, 1 to 63.";
        checks.refuse("slug", UserErrorCode::Invalid, message);
    }
    checks.finish()?;
    let from_name = slug(&name).unwrap_or_else(|| "organization".to_owned());
    let clock = session.clock();
    let founded = Founded {
        bearer,
        organization: OrganizationId::new(clock).uuid(),
        member: OrganizationMemberId::new(clock).uuid(),
        name: &name,
        slug: wanted.unwrap_or(&from_name),
        now: clock.now(),
    };
    let taken = || VerbError::user("slug", UserErrorCode::Conflict, "Another organization has this slug.");
    let (mut tx, slug) = match TenantTx::begin_by_creation(&services.db, &founded, session.traffic_shared()).await? {
        // Nothing was committed.
        Admission::Joined { slug, .. } if wanted.is_some_and(|wanted| wanted != slug) => return Err(taken()),
        Admission::Joined { tx, slug, .. } => (tx, slug),
        Admission::Refused(outcome) if outcome == "NO_ACCOUNT" => return Ok(refuse(&services.db, bearer).await?),
        Admission::Refused(outcome) if outcome == "TAKEN" => return Err(taken()),
        Admission::Refused(_) => {
            let message = "You own 100 organizations, which is the most: leave or delete one first.";
            return Err(VerbError::of_input(UserErrorCode::Conflict, message));
        }
    };
    let tenant = tx.tenant();
    let entry = AuditEntry::of(super::CREATED, tenant.organization_id, json!({ "after": { "slug": slug } }));
    trail::record(&mut tx, clock, session.origin(), &entry).await?;
    tx.commit().await?;
    let organization = OrganizationSummary { id: tenant.organization_id, name, slug, clerk_org_id: None };
    Ok(ViewerMembership { organization, role: tenant.role })
}

async fn suspension(
    session: &Session,
    id: OrganizationId,
    reason: Option<&str>,
) -> Result<OrganizationSuspensionPayload> {
    let action = if reason.is_some() { lifecycle::SUSPENDED } else { lifecycle::REACTIVATED };
    let metadata = json!({ "organization": id.to_string(), "reason": reason });
    let tx = platform::open(session, action, metadata).await?;
    let (suspended_at, user_errors) = mutation::outcome(lifecycle::suspend(tx, session, id, reason).await)?;
    Ok(OrganizationSuspensionPayload { suspended_at: suspended_at.flatten(), user_errors })
}

/// The mutations of the slice.
#[derive(Debug, Default)]
pub struct OrganizationMutation;

#[Object]
impl OrganizationMutation {
    /// Creates an organization that the viewer owns. Available before an organization is chosen.
    async fn organization_create(
        &self,
        ctx: &Context<'_>,
        input: OrganizationCreateInput,
    ) -> Result<OrganizationCreatePayload> {
        let (membership, user_errors) = mutation::outcome(create(Session::of(ctx)?, input).await)?;
        Ok(OrganizationCreatePayload { membership, user_errors })
    }

    /// Deletes the organization of the request. It is gone for everybody at once; for 30 days an owner can restore it, then its
    /// rows are removed.
    async fn organization_delete(
        &self,
        ctx: &Context<'_>,
        input: OrganizationDeleteInput,
    ) -> Result<OrganizationDeletePayload> {
        let ran = mutation::run(ctx, input).await?;
        Ok(OrganizationDeletePayload { organization_id: ran.id, user_errors: ran.user_errors })
    }

    /// Takes back that an organization of the viewer's was deleted. Available before an organization is chosen.
    async fn organization_restore(
        &self,
        ctx: &Context<'_>,
        input: OrganizationRestoreInput,
    ) -> Result<OrganizationRestorePayload> {
        let restored = lifecycle::restore(Session::of(ctx)?, input.organization_id).await;
        let (membership, user_errors) = mutation::outcome(restored)?;
        Ok(OrganizationRestorePayload { membership, user_errors })
    }

    /// Suspends an organization: its members read it, and change nothing. For superadmins.
    async fn organization_suspend(
        &self,
        ctx: &Context<'_>,
        input: OrganizationSuspendInput,
    ) -> Result<OrganizationSuspensionPayload> {
        suspension(Session::of(ctx)?, input.organization_id, Some(&input.reason)).await
    }

    /// Ends the suspension of an organization. For superadmins.
    async fn organization_reactivate(
        &self,
        ctx: &Context<'_>,
        input: OrganizationReactivateInput,
    ) -> Result<OrganizationSuspensionPayload> {
        suspension(Session::of(ctx)?, input.organization_id, None).await
    }

    /// Updates the organization of the request.
    async fn organization_update(
        &self,
        ctx: &Context<'_>,
        input: OrganizationUpdateInput,
    ) -> Result<OrganizationUpdatePayload> {
        let ran = mutation::run(ctx, input).await?;
        let organization = Session::of(ctx)?.load_written(ran.id).await?;
        Ok(OrganizationUpdatePayload { organization, user_errors: ran.user_errors })
    }
}
