//! Domains of an organization: whoever has a verified address at one may join, or ask to.
//!
//! Invariants: an organization names only a domain at which the member who names it has an address, and none where everybody can get
//! one; it opens nobody's door but its own. Joining gives MEMBER or VIEWER, and a MEMBER takes a seat. Whose address
//! counts as verified, `tenantry.verified_domain` says.

use std::sync::Arc;

use async_graphql::{InputObject, SimpleObject};
use serde_json::json;

use crate::access::{Action, Actions, IdentitySource, MemberRole};
use crate::db::{Admission, Bind, Joining, Lane, TenantTx, binds_of, refuse};
use crate::error::{Error, Result};
use crate::graphql::mutation::{
    Checks, Done, Mutation, MutationInfo, UserError, UserErrorCode, VerbError, VerbResult, Work,
};
use crate::graphql::session::Session;
use crate::id::{MembershipRequestId, OrganizationDomainId, OrganizationId, OrganizationMemberId, marker};
use crate::members::verbs::{lock_members, require_covered};
use crate::members::{DomainEnrollment, MembershipRequest, OrganizationDomain, OrganizationSummary, ViewerMembership};
use crate::trail::{self, AuditEntry};

/// Domains where everybody gets an address: nobody's organization is everybody.
const PUBLIC: &[&str] = &[
    "10minutemail.com",
    "126.com",
    "163.com",
    "aim.com",
    "anonaddy.com",
    "aol.com",
    "att.net",
    "bk.ru",
    "bluewin.ch",
    "btinternet.com",
    "comcast.net",
    "daum.net",
    "duck.com",
    "fastmail.com",
    "fastmail.fm",
    "foxmail.com",
    "free.fr",
    "freenet.de",
    "gmail.com",
    "googlemail.com",
    "guerrillamail.com",
    "hanmail.net",
    "hey.com",
    "hushmail.com",
    "icloud.com",
    "inbox.com",
    "inbox.lv",
    "inbox.ru",
    "laposte.net",
    "libero.it",
    "list.ru",
    "lycos.com",
    "mac.com",
    "mail.com",
    "mail.ru",
    "mailbox.org",
    "maildrop.cc",
    "mailinator.com",
    "me.com",
    "mozmail.com",
    "msn.com",
    "naver.com",
    "o2.pl",
    "onet.pl",
    "orange.fr",
    "outlook.com",
    "outlook.de",
    "outlook.es",
    "outlook.fr",
    "outlook.it",
    "pm.me",
    "posteo.de",
    "privaterelay.appleid.com",
    "proton.me",
    "protonmail.ch",
    "protonmail.com",
    "qq.com",
    "rambler.ru",
    "rediffmail.com",
    "rocketmail.com",
    "seznam.cz",
    "sfr.fr",
    "simplelogin.com",
    "sina.com",
    "sky.com",
    "t-online.de",
    "temp-mail.org",
    "terra.com.br",
    "tuta.io",
    "tutanota.com",
    "uol.com.br",
    "verizon.net",
    "virgilio.it",
    "wanadoo.fr",
    "web.de",
    "wp.pl",
    "ya.ru",
    "ymail.com",
    "yopmail.com",
    "zoho.com",
    "zohomail.com",
];

/// Providers with a domain in every country: `yahoo.co.uk`.
const FAMILIES: &[&str] = &["gmx", "hotmail", "live", "yahoo", "yandex"];

/// What the audit log calls it when somebody joins by a domain.
pub(super) const JOINED: &str = "organization.join";

/// The mutations of this file.
pub const MUTATIONS: &[MutationInfo] = &[
    MutationInfo::of::<OrganizationDomainCreateInput>(),
    MutationInfo::of::<OrganizationDomainDeleteInput>(),
    MutationInfo { field: "organizationJoin", action: None, audit: JOINED, row: "Organization" },
    MutationInfo::of::<MembershipRequestAcceptInput>(),
    MutationInfo::of::<MembershipRequestDeclineInput>(),
];

/// The domain to name.
#[derive(Clone, Debug, InputObject)]
pub struct OrganizationDomainCreateInput {
    /// The domain: `acme.com`. The viewer has a verified address at it.
    pub domain: String,
    /// Whether people with an address there join at once or ask to; REQUEST by default.
    pub enrollment: Option<DomainEnrollment>,
    /// What they become: MEMBER, the default, or VIEWER.
    pub role: Option<MemberRole>,
}

/// The domain to take back.
#[derive(Clone, Debug, InputObject)]
pub struct OrganizationDomainDeleteInput {
    /// The domain.
    pub id: OrganizationDomainId,
}

/// The organization to join.
#[derive(Clone, Debug, InputObject)]
pub struct OrganizationJoinInput {
    /// One of `viewer.joinableOrganizations`.
    pub organization_id: OrganizationId,
}

/// The request to accept.
#[derive(Clone, Debug, InputObject)]
pub struct MembershipRequestAcceptInput {
    /// The request.
    pub id: MembershipRequestId,
    /// What the person becomes: MEMBER, the default, or VIEWER.
    pub role: Option<MemberRole>,
}

/// The request to decline.
#[derive(Clone, Debug, InputObject)]
pub struct MembershipRequestDeclineInput {
    /// The request.
    pub id: MembershipRequestId,
}

/// The result of `organizationDomainCreate`.
#[derive(Debug, SimpleObject)]
pub struct OrganizationDomainPayload {
    /// The domain; null when there are errors.
    pub domain: Option<Arc<OrganizationDomain>>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The result of `organizationDomainDelete`.
#[derive(Debug, SimpleObject)]
pub struct OrganizationDomainDeletePayload {
    /// The id of the domain that was taken back; null when there are errors.
    pub domain_id: Option<OrganizationDomainId>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The result of `organizationJoin`.
#[derive(Debug, SimpleObject)]
pub struct OrganizationJoinPayload {
    /// The new membership; null when it was asked for, or there are errors.
    pub membership: Option<ViewerMembership>,
    /// Whether the organization was asked, and decides.
    pub is_requested: bool,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The result of `membershipRequestAccept` and `membershipRequestDecline`.
#[derive(Debug, SimpleObject)]
pub struct MembershipRequestPayload {
    /// The request as it is now; null when there are errors.
    pub request: Option<Arc<MembershipRequest>>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// An organization that the viewer may join by their address.
#[derive(Clone, Debug, SimpleObject)]
pub struct JoinableOrganization {
    /// Id, for `organizationJoin`.
    pub id: OrganizationId,
    /// Name.
    pub name: String,
    /// Slug.
    pub slug: String,
    /// Whether joining happens at once or is asked for.
    pub enrollment: DomainEnrollment,
    /// Whether the viewer has asked already.
    pub is_requested: bool,
}

/// A domain in its form for comparing: small letters, digits and hyphens (RFC 1123, 2.1), international ones as `xn--…`.
fn check_domain(checks: &mut Checks, given: &str) -> String {
    let domain = checks.required("domain", given, 253).to_lowercase();
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_domain = domain.contains('.') && domain.split('.').all(is_label);
    if !domain.is_empty() && !is_domain {
        checks.refuse(
            "domain",
            UserErrorCode::Invalid,
            "`domain` must be one like acme.com; international ones as xn--….",
        );
    } else if PUBLIC.contains(&domain.as_str()) || domain.split('.').next().is_some_and(|name| FAMILIES.contains(&name))
    {
        checks.refuse("domain", UserErrorCode::Invalid, "Everybody can get an address at this domain.");
    }
    domain
}

/// What a domain gives.
fn check_role(checks: &mut Checks, given: Option<MemberRole>) -> MemberRole {
    let role = given.unwrap_or(MemberRole::Member);
    if !matches!(role, MemberRole::Member | MemberRole::Viewer) {
        checks.refuse(
            "role",
            UserErrorCode::Invalid,
            "`role` takes MEMBER or VIEWER: make them more once they are in.",
        );
    }
    role
}

impl Mutation for OrganizationDomainCreateInput {
    type Row = marker::OrganizationDomain;
    const FIELD: &'static str = "organizationDomainCreate";
    const ACTION: Action = Action::InvitationWrite;
    const AUDIT: &'static str = "organization_domain.create";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let mut checks = Checks::default();
        let domain = check_domain(&mut checks, &self.domain);
        let role = check_role(&mut checks, self.role);
        checks.finish()?;
        require_covered(work, "role", Actions::of_role(role))?;
        lock_members(work).await?;
        let (organization, id) = (work.tenant().organization_id, work.new_id());
        let enrollment = self.enrollment.unwrap_or(DomainEnrollment::Request);
        let own = sqlx::query_scalar!("select tenantry.verified_domain_of_viewer()").fetch_one(work.tx.conn()).await?;
        if own.as_deref() != Some(&domain) {
            let message = "You have no verified address at this domain: whoever names one has to.";
            return Err(VerbError::user("domain", UserErrorCode::Invalid, message));
        }
        let made = sqlx::query!(
            "insert into tenantry.organization_domains (organization_id, id, domain, enrollment, role, created_by, created_at)
             values ($1, $2, $3, $4, $5, $6, $7) on conflict (organization_id, domain) do nothing",
            organization as _,
            id as _,
            domain,
            enrollment as _,
            role as _,
            work.tenant().actor.user() as _,
            work.now
        )
        .execute(work.tx.conn())
        .await?;
        if made.rows_affected() == 0 {
            let message = "The organization has this domain: delete it first to change what it does.";
            return Err(VerbError::user("domain", UserErrorCode::Conflict, message));
        }
        let after = json!({ "domain": domain, "enrollment": enrollment.label(), "role": role.label() });
        Ok(Done { id, audit: json!({ "after": after }), event: None })
    }
}

impl Mutation for OrganizationDomainDeleteInput {
    type Row = marker::OrganizationDomain;
    const FIELD: &'static str = "organizationDomainDelete";
    const ACTION: Action = Action::InvitationWrite;
    const AUDIT: &'static str = "organization_domain.delete";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let organization = work.tenant().organization_id;
        let gone = sqlx::query_scalar!(
            "delete from tenantry.organization_domains where organization_id = $1 and id = $2 returning domain",
            organization as _,
            self.id as _
        )
        .fetch_optional(work.tx.conn())
        .await?;
        match gone {
            Some(domain) => Ok(Done { id: self.id, audit: json!({ "before": { "domain": domain } }), event: None }),
            None => Err(VerbError::user("id", UserErrorCode::NotFound, "There is no such domain.")),
        }
    }
}

/// Decides about a request; the function behind it makes the member.
async fn decide(work: &mut Work<'_>, id: MembershipRequestId, role: Option<MemberRole>) -> VerbResult<()> {
    lock_members(work).await?;
    let member = OrganizationMemberId::new(work.clock);
    let outcome = sqlx::query_scalar!(
        r#"select tenantry.decide_membership_request($1, $2, $3, $4) as "outcome!""#,
        id as _,
        member as _,
        role as _,
        work.now
    )
    .fetch_one(work.tx.conn())
    .await?;
    let (code, message) = match outcome.as_str() {
        "DONE" => return Ok(()),
        "DECIDED" => (UserErrorCode::InvalidTransition, "The request was decided before."),
        "FULL" => (UserErrorCode::SeatsExhausted, SEATS_EXHAUSTED),
        "MEMBER" => (UserErrorCode::Conflict, "They are a member already."),
        _ => (UserErrorCode::NotFound, "There is no such request."),
    };
    Err(VerbError::user("id", code, message))
}

/// What is said to whoever manages members.
pub(super) const SEATS_EXHAUSTED: &str =
    "All seats of the organization are taken: buy more, make a member VIEWER, or remove one. VIEWERs need no seat.";

impl Mutation for MembershipRequestAcceptInput {
    type Row = marker::MembershipRequest;
    const FIELD: &'static str = "membershipRequestAccept";
    const ACTION: Action = Action::InvitationWrite;
    const AUDIT: &'static str = "membership_request.accept";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let mut checks = Checks::default();
        let role = check_role(&mut checks, self.role);
        checks.finish()?;
        require_covered(work, "role", Actions::of_role(role))?;
        decide(work, self.id, Some(role)).await?;
        Ok(Done { id: self.id, audit: json!({ "after": { "role": role.label(), "member": true } }), event: None })
    }
}

impl Mutation for MembershipRequestDeclineInput {
    type Row = marker::MembershipRequest;
    const FIELD: &'static str = "membershipRequestDecline";
    const ACTION: Action = Action::InvitationWrite;
    const AUDIT: &'static str = "membership_request.decline";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        decide(work, self.id, None).await?;
        Ok(Done { id: self.id, audit: json!({}), event: None })
    }
}

/// The organizations that the bearer may join by their address.
pub(super) async fn joinable(session: &Session) -> Result<Vec<JoinableOrganization>> {
    let (bearer, services) = (session.bearer().await?, session.services());
    let Some([subject, sid]) = binds_of(bearer) else { return Ok(Vec::new()) };
    let sql = "select id, name, slug, enrollment::text, is_requested from tenantry.joinable_organizations($1, $2, $3)";
    let clerk_decides = Bind::Bool(services.identity_source == IdentitySource::Clerk);
    let rows = services.db.read_alone(Lane::person(bearer.subject), sql, &[subject, sid, clerk_decides]).await?;
    rows.iter()
        .map(|row| {
            let enrollment: String = row.try_get(3)?;
            let enrollment =
                DomainEnrollment::from_label(&enrollment).ok_or_else(|| Error::internal("an enrollment"))?;
            let (name, slug) = (row.try_get(1)?, row.try_get(2)?);
            Ok(JoinableOrganization { id: row.try_get(0)?, name, slug, enrollment, is_requested: row.try_get(4)? })
        })
        .collect()
}

/// What became of it: a membership, or nothing yet because the organization was asked.
pub(super) async fn join(session: &Session, id: OrganizationId) -> VerbResult<Option<ViewerMembership>> {
    let (bearer, services) = (session.bearer().await?, session.services());
    if session.is_restricted() {
        return Err(Error::ImpersonationRestricted { action: "ORGANIZATION_JOIN" }.into());
    }
    let (clock, member) = (session.clock(), OrganizationMemberId::new(session.clock()));
    let request = MembershipRequestId::new(clock);
    let joining = Joining {
        bearer,
        organization: id.uuid(),
        member: member.uuid(),
        request: request.uuid(),
        clerk_decides: services.identity_source == IdentitySource::Clerk,
        now: clock.now(),
    };
    let admission = TenantTx::begin_by_domain(&services.db, &joining, session.traffic_shared()).await?;
    let (mut tx, organization) = match admission {
        Admission::Joined { tx, name, slug, clerk_org_id, .. } => {
            (tx, OrganizationSummary { id, name, slug, clerk_org_id })
        }
        Admission::Refused(outcome) => {
            let (code, message) = match outcome.as_str() {
                "NO_ACCOUNT" => return Ok(refuse(&services.db, bearer).await?),
                "REQUESTED" => return Ok(None),
                "MEMBER" => (UserErrorCode::Conflict, "You are a member of this organization already."),
                "FULL" => {
                    (UserErrorCode::SeatsExhausted, "All seats of the organization are taken: ask one of its owners.")
                }
                "DECLINED" => (UserErrorCode::Conflict, "The organization has declined: ask one of its owners."),
                _ => (
                    UserErrorCode::NotFound,
                    "There is no such organization for your address: `viewer.joinableOrganizations` has those.",
                ),
            };
            return Err(VerbError::user("organizationId", code, message));
        }
    };
    let role = tx.tenant().role;
    let entry = AuditEntry::of(JOINED, id, json!({ "after": { "role": role.label(), "member": true } }));
    trail::record(&mut tx, clock, session.origin(), &entry).await?;
    tx.commit().await?;
    Ok(Some(ViewerMembership { organization, role }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_those_of_somebody() {
        let check = |text: &str| {
            let mut checks = Checks::default();
            let domain = check_domain(&mut checks, text);
            checks.finish().map(|()| domain).ok()
        };
        assert_eq!(check(" Acme.COM ").as_deref(), Some("acme.com"));
        assert_eq!(check("xn--bcher-kva.example").as_deref(), Some("xn--bcher-kva.example"));
        for wrong in [
            "",
            "acme",
            "a@acme.com",
            "acme..com",
            "-acme.com",
            "acme.com.",
            "bücher.example",
            "GMAIL.com",
            "yahoo.co.jp",
            "*.acme.com",
            "a b.com",
        ] {
            assert_eq!(check(wrong), None, "{wrong}");
        }
        assert!(PUBLIC.is_sorted());
    }
}
