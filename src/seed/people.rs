//! Organizations with their members, invitations and API keys.

use uuid::Uuid;

use super::{ADMIN, ALICE, BOB, Writer};
use crate::auth::Persona;
use crate::error::Result;

/// An organization of the sample data and what it pays for.
pub(super) struct Sample {
    name: &'static str,
    slug: &'static str,
    clerk_id: &'static str,
    industry: &'static str,
    status: &'static str,
    plan: &'static str,
    seats: i32,
    trial_days: Option<i32>,
}

pub(super) const ACME: Sample = Sample {
    name: "Acme Corp",
    slug: "acme-corp",
    clerk_id: "org_acme",
    industry: "E-commerce",
    status: "ACTIVE",
    plan: "PRO",
    seats: 10,
    trial_days: None,
};
pub(super) const TECH_STARTUP: Sample = Sample {
    name: "Tech Startup Inc",
    slug: "tech-startup",
    clerk_id: "org_techstartup",
    industry: "Software",
    status: "TRIALING",
    plan: "STARTER",
    seats: 3,
    trial_days: Some(9),
};

/// The organization and its subscription; a trial is the first period.
pub(super) async fn organization(w: &mut Writer<'_>, sample: &Sample) -> Result<Uuid> {
    let organization = w.id();
    let query = sqlx::query(
        r#"insert into tenantry.organizations (id, clerk_org_id, name, slug, status, industry, support_email, settings, created_at, updated_at)
           values ($1, $2, $3, $4, $5::tenantry.organization_status, $6, 'support@' || $4 || '.example',
                   '{"timezone": "Europe/Berlin", "locale": "en", "businessHours": {"from": "09:00", "to": "18:00"}}',
                   $7 - interval '90 days', $7 - interval '90 days')"#,
    )
    .bind(organization)
    .bind(sample.clerk_id)
    .bind(sample.name)
    .bind(sample.slug)
    .bind(sample.status)
    .bind(sample.industry)
    .bind(w.now);
    w.insert("organizations", query).await?;

    let query = sqlx::query(
        "insert into tenantry.subscriptions (organization_id, id, stripe_customer_id, stripe_subscription_id, status, plan, seat_count,
                                    current_period_start, current_period_end, trial_end, created_at, updated_at)
         select $1, $2, 'cus_sample_' || $3, 'sub_sample_' || $3, $4::tenantry.subscription_status, $5::tenantry.organization_plan, $6,
                p.ends_at - interval '30 days', p.ends_at, case when $7::int is not null then p.ends_at end,
                $8 - interval '90 days', $8 - interval '1 day'
           from (values ($8 + make_interval(days => coalesce($7::int, 18)))) as p(ends_at)",
    )
    .bind(organization)
    .bind(w.id())
    .bind(sample.slug)
    .bind(sample.status)
    .bind(sample.plan)
    .bind(sample.seats)
    .bind(sample.trial_days)
    .bind(w.now);
    w.insert("subscriptions", query).await?;
    Ok(organization)
}

/// The users of the sample data.
pub(super) struct People {
    pub(super) alice: Uuid,
    pub(super) bob: Uuid,
    pub(super) carol: Uuid,
    pub(super) dave: Uuid,
    pub(super) erin: Uuid,
    pub(super) frank: Uuid,
    pub(super) grace: Uuid,
}

/// Everybody, with the organization they are in when they sign in.
pub(super) async fn users(w: &mut Writer<'_>, acme: Uuid, startup: Uuid) -> Result<People> {
    user(w, "user_admin", ADMIN.email, ADMIN.name, true, None).await?;
    let persona = |p: Persona| (p.subject, p.email, p.name);
    let mut ids = [Uuid::nil(); 7];
    let everybody = [
        (persona(ALICE), acme),
        (persona(BOB), startup),
        (("user_carol", "carol@example.com", "Carol Nguyen"), acme),
        (("user_dave", "dave@example.com", "Dave Okafor"), acme),
        (("user_erin", "erin@example.com", "Erin Larsson"), acme),
        (("user_frank", "frank@example.com", "Frank Moreau"), acme),
        (("user_grace", "grace@example.com", "Grace Miller"), startup),
    ];
    for (slot, ((subject, email, name), current)) in ids.iter_mut().zip(everybody) {
        *slot = user(w, subject, email, name, false, Some(current)).await?;
    }
    let [alice, bob, carol, dave, erin, frank, grace] = ids;
    Ok(People { alice, bob, carol, dave, erin, frank, grace })
}

async fn user(
    w: &mut Writer<'_>,
    subject: &str,
    email: &str,
    name: &str,
    is_superadmin: bool,
    current_organization: Option<Uuid>,
) -> Result<Uuid> {
    let id = w.id();
    let query = sqlx::query(
        "insert into tenantry.users (id, clerk_id, email, verified_email, name, is_superadmin, current_organization_id, created_at, updated_at)
         values ($1, $2, $3, $3, $4, $5, $6, $7 - interval '90 days', $7 - interval '90 days')",
    )
    .bind(id)
    .bind(subject)
    .bind(email)
    .bind(name)
    .bind(is_superadmin)
    .bind(current_organization)
    .bind(w.now);
    w.insert("users", query).await?;
    Ok(id)
}

/// Bob is in both organizations, so that switching and permissions can be tried. Grace is a customer of the other one.
pub(super) async fn members(w: &mut Writer<'_>, acme: Uuid, startup: Uuid, people: &People) -> Result<()> {
    let members = [
        (acme, people.alice, "OWNER", 90),
        (acme, people.carol, "ADMIN", 89),
        (acme, people.dave, "MEMBER", 80),
        (acme, people.erin, "MEMBER", 79),
        (acme, people.frank, "MEMBER", 78),
        (acme, people.bob, "VIEWER", 30),
        (startup, people.bob, "OWNER", 90),
        (startup, people.grace, "MEMBER", 60),
    ];
    for (organization, user, role, days) in members {
        let id = w.id();
        let query = sqlx::query(
            "insert into tenantry.organization_members (organization_id, id, user_id, role, clerk_membership_id, created_at, updated_at)
             values ($1, $2, $3, $4::tenantry.member_role, 'orgmem_sample_' || replace($2::text, '-', ''),
                     $5 - make_interval(days => $6), $5 - make_interval(days => $6))",
        )
        .bind(organization)
        .bind(id)
        .bind(user)
        .bind(role)
        .bind(w.now)
        .bind(days);
        w.insert("organization_members", query).await?;
    }
    Ok(())
}

/// An invitation, an API key and a custom role of Acme. Their hashes are of random bytes: no link and no key fits them.
pub(super) async fn access(w: &mut Writer<'_>, acme: Uuid, people: &People) -> Result<()> {
    let query = sqlx::query(
        "insert into tenantry.invitations (organization_id, id, email, role, token_hash, invited_by, expires_at, created_at, updated_at)
         values ($1, $2, 'judy@example.com', 'MEMBER', sha256(uuid_send(gen_random_uuid())), $3,
                 $4 + interval '6 days', $4 - interval '1 day', $4 - interval '1 day')",
    )
    .bind(acme)
    .bind(w.id())
    .bind(people.carol)
    .bind(w.now);
    w.insert("invitations", query).await?;

    let query = sqlx::query(
        "insert into tenantry.api_keys (organization_id, id, name, prefix, key_hash, scopes, expires_at, last_used_at, created_by, created_at, updated_at)
         values ($1, $2, 'Help centre', 'sample_acme', sha256(uuid_send(gen_random_uuid())), '{ORGANIZATION_READ,TICKET_CREATE}',
                 $4 + interval '335 days', $4 - interval '2 hours', $3, $4 - interval '30 days', $4 - interval '2 hours')",
    )
    .bind(acme)
    .bind(w.id())
    .bind(people.alice)
    .bind(w.now);
    w.insert("api_keys", query).await?;

    let query = sqlx::query(
        "insert into tenantry.client_keys (organization_id, id, name, environment, public_key, created_by, created_at, updated_at)
         values ($1, $2, 'Web application', 'production', sha256(uuid_send(gen_random_uuid())), $3, $4 - interval '20 days', $4 - interval '20 days')",
    )
    .bind(acme)
    .bind(w.id())
    .bind(people.alice)
    .bind(w.now);
    w.insert("client_keys", query).await?;

    let actions = "{ORGANIZATION_READ,TICKET_CREATE,TICKET_UPDATE,TICKET_MESSAGE_ADD,TICKET_NOTE_READ,METRICS_READ}";
    domain(w, acme, people.grace, "acme.example").await?;
    support_access(w, acme, "Ticket 12: the export hangs").await?;
    custom_role(w, acme, "Support lead", "Works on tickets and sees how it goes", actions).await
}

/// A domain by which people ask to join, and one who asked and was declined.
pub(super) async fn domain(w: &mut Writer<'_>, organization: Uuid, asked: Uuid, domain: &str) -> Result<()> {
    let query = sqlx::query(
        "insert into tenantry.organization_domains (organization_id, id, domain, created_at) values ($1, $2, $3, $4 - interval '60 days')",
    )
    .bind(organization)
    .bind(w.id())
    .bind(domain.to_owned())
    .bind(w.now);
    w.insert("organization_domains", query).await?;
    let query = sqlx::query(
        "insert into tenantry.membership_requests (organization_id, id, user_id, created_at, decided_at, is_accepted)
         values ($1, $2, $3, $4 - interval '50 days', $4 - interval '49 days', false)",
    )
    .bind(organization)
    .bind(w.id())
    .bind(asked)
    .bind(w.now);
    w.insert("membership_requests", query).await
}

/// An operator looked into an organization.
pub(super) async fn support_access(w: &mut Writer<'_>, organization: Uuid, reason: &str) -> Result<()> {
    let query = sqlx::query(
        "insert into tenantry.support_accesses (organization_id, id, user_id, reason, actions, created_at, expires_at, ended_at)
         select $1, $2, u.id, $3, '{ORGANIZATION_READ,AUDIT_READ}', $4 - interval '3 days', $4 - interval '3 days' + interval '1 hour',
                $4 - interval '3 days' + interval '20 minutes' from tenantry.users u where u.clerk_id = 'user_admin'",
    )
    .bind(organization)
    .bind(w.id())
    .bind(reason.to_owned())
    .bind(w.now);
    w.insert("support_accesses", query).await
}

/// A role that an organization made.
pub(super) async fn custom_role(
    w: &mut Writer<'_>,
    organization: Uuid,
    name: &str,
    description: &str,
    actions: &str,
) -> Result<()> {
    let query = sqlx::query(
        "insert into tenantry.custom_roles (organization_id, id, name, description, actions, created_at, updated_at)
         values ($1, $2, $3, $4, $5::text[], $6 - interval '20 days', $6 - interval '20 days')",
    )
    .bind(organization)
    .bind(w.id())
    .bind(name.to_owned())
    .bind(description.to_owned())
    .bind(actions.to_owned())
    .bind(w.now);
    w.insert("custom_roles", query).await
}
