//! Creating, changing and archiving a customer.

use serde_json::json;

use crate::access::Action;
use crate::customers::graphql::{CustomerArchiveInput, CustomerCreateInput, CustomerUpdateInput};
use crate::customers::{AccountStanding, AccountTier, no_such_customer};
use crate::events::Event;
use crate::graphql::mutation::{Checks, Done, Mutation, UserErrorCode, VerbError, VerbResult, Work, check_version};
use crate::id::{CustomerId, marker};
use crate::trail::Difference;

/// Most characters.
const MAX_EMAIL: usize = 320;
const MAX_NAME: usize = 200;
const MAX_PHONE: usize = 50;
/// Most bytes of a JSON object.
const MAX_JSON: usize = 64 * 1024;

fn check_email(checks: &mut Checks, email: &str) -> String {
    let email = checks.required("email", email, MAX_EMAIL);
    let parts = email.split_once('@').filter(|(name, domain)| !name.is_empty() && !domain.is_empty());
    let is_odd = |c: char| c.is_whitespace() || c.is_control();
    if !email.is_empty() && (parts.is_none() || email.contains(is_odd)) {
        checks.refuse("email", UserErrorCode::Invalid, "`email` takes an address: `name@example.com`.");
    }
    email
}

/// A text that may be removed: one without characters is none.
fn optional(checks: &mut Checks, field: &str, text: Option<&str>, most: usize) -> Option<String> {
    text.map(|text| checks.text(field, text.trim(), most)).filter(|text| !text.is_empty())
}

/// What the constraint on addresses says, as what the caller can mend. The constraint decides: whoever looked before may be
/// too early.
fn taken(error: sqlx::Error) -> VerbError {
    match &error {
        sqlx::Error::Database(refused) if refused.constraint() == Some("customer_profiles_lower_email_key") => {
            VerbError::user("email", UserErrorCode::Conflict, "Another customer has this address: merge the two.")
        }
        _ => error.into(),
    }
}

impl Mutation for CustomerCreateInput {
    type Row = marker::Customer;
    const FIELD: &'static str = "customerCreate";
    const ACTION: Action = Action::CustomerWrite;
    const AUDIT: &'static str = "customer.create";

    fn idempotency_key(&self) -> Option<&str> {
        self.idempotency_key.as_deref()
    }

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let mut checks = Checks::default();
        let email = check_email(&mut checks, &self.email);
        let name = checks.required("name", &self.name, MAX_NAME);
        let phone = optional(&mut checks, "phone", self.phone.as_deref(), MAX_PHONE);
        let company = optional(&mut checks, "company", self.company.as_deref(), MAX_NAME);
        checks.object("preferences", self.preferences.as_ref(), MAX_JSON);
        checks.object("context", self.context.as_ref(), MAX_JSON);
        checks.finish()?;
        let id = work.new_id();
        let tier = self.tier.unwrap_or(AccountTier::Standard);
        let standing = self.standing.unwrap_or(AccountStanding::Good);
        sqlx::query!(
            "insert into tenantry.customer_profiles (organization_id, id, email, name, phone, company, tier, standing, preferences, context, created_at, updated_at)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11)",
            work.tenant().organization_id as _,
            id as _,
            email,
            name,
            phone,
            company,
            tier as _,
            standing as _,
            self.preferences.unwrap_or_else(|| json!({})),
            self.context.unwrap_or_else(|| json!({})),
            work.now
        )
        .execute(work.tx.conn())
        .await
        .map_err(taken)?;
        let audit = json!({ "after": { "tier": tier, "standing": standing } });
        Ok(Done { id, audit, event: Some(Event::of(id)) })
    }
}

/// What deciding about a change needs to know.
struct Locked {
    tier: AccountTier,
    standing: AccountStanding,
    version: i32,
}

/// Locks a customer in use. Whoever only refers to it (a new message) does not wait.
async fn lock(work: &mut Work<'_>, id: CustomerId) -> VerbResult<Locked> {
    let row = sqlx::query_as!(
        Locked,
        r#"select tier as "tier: AccountTier", standing as "standing: AccountStanding", version from tenantry.customer_profiles
            where organization_id = $1 and id = $2 and deleted_at is null for no key update"#,
        work.tenant().organization_id as _,
        id as _
    )
    .fetch_optional(work.tx.conn())
    .await?;
    row.ok_or_else(|| no_such_customer("id"))
}

impl Mutation for CustomerUpdateInput {
    type Row = marker::Customer;
    const FIELD: &'static str = "customerUpdate";
    const ACTION: Action = Action::CustomerWrite;
    const AUDIT: &'static str = "customer.update";

    fn idempotency_key(&self) -> Option<&str> {
        self.idempotency_key.as_deref()
    }

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let mut checks = Checks::default();
        let email = self.email.as_deref().map(|email| check_email(&mut checks, email));
        let name = self.name.as_deref().map(|name| checks.required("name", name, MAX_NAME));
        let phone = optional(&mut checks, "phone", self.phone.value().map(String::as_str), MAX_PHONE);
        let company = optional(&mut checks, "company", self.company.value().map(String::as_str), MAX_NAME);
        checks.object("preferences", self.preferences.as_ref(), MAX_JSON);
        checks.object("context", self.context.as_ref(), MAX_JSON);
        checks.finish()?;
        let before = lock(work, self.id).await?;
        check_version(self.expected_version, before.version)?;
        let (tier, standing) = (self.tier.unwrap_or(before.tier), self.standing.unwrap_or(before.standing));
        sqlx::query!(
            "update tenantry.customer_profiles
                set email = coalesce($3, email), name = coalesce($4, name), phone = case when $5 then $6 else phone end,
                    company = case when $7 then $8 else company end, tier = $9, standing = $10,
                    preferences = coalesce($11, preferences), context = coalesce($12, context), version = version + 1
              where organization_id = $1 and id = $2",
            work.tenant().organization_id as _,
            self.id as _,
            email,
            name,
            !self.phone.is_undefined(),
            phone,
            !self.company.is_undefined(),
            company,
            tier as _,
            standing as _,
            self.preferences,
            self.context
        )
        .execute(work.tx.conn())
        .await
        .map_err(taken)?;
        let texts: Vec<&str> = [
            ("email", email.is_some()),
            ("name", name.is_some()),
            ("phone", !self.phone.is_undefined()),
            ("company", !self.company.is_undefined()),
            ("preferences", self.preferences.is_some()),
            ("context", self.context.is_some()),
        ]
        .iter()
        .filter_map(|(field, is_given)| is_given.then_some(*field))
        .collect();
        let mut said = Difference::default();
        said.of("tier", &before.tier, &tier);
        said.of("standing", &before.standing, &standing);
        said.of("version", &before.version, &(before.version + 1));
        let mut audit = said.finish();
        audit["texts"] = json!(texts);
        Ok(Done { id: self.id, audit, event: Some(Event::of(self.id)) })
    }
}

impl Mutation for CustomerArchiveInput {
    type Row = marker::Customer;
    const FIELD: &'static str = "customerArchive";
    const ACTION: Action = Action::CustomerWrite;
    const AUDIT: &'static str = "customer.archive";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let before = lock(work, self.id).await?;
        check_version(self.expected_version, before.version)?;
        let organization = work.tenant().organization_id;
        // Whoever opens a ticket for a customer locks them first: none comes after this.
        let is_waiting = sqlx::query_scalar!(
            r#"select exists (select from tenantry.tickets where organization_id = $1 and customer_id = $2 and status_rank < 4) as "is!""#,
            organization as _,
            self.id as _
        )
        .fetch_one(work.tx.conn())
        .await?;
        if is_waiting {
            let message = "The customer has open tickets: resolve them, or merge the customer into another one.";
            return Err(VerbError::user("id", UserErrorCode::InvalidTransition, message));
        }
        sqlx::query!(
            "update tenantry.customer_profiles set deleted_at = $3, version = version + 1 where organization_id = $1 and id = $2",
            organization as _,
            self.id as _,
            work.now
        )
        .execute(work.tx.conn())
        .await?;
        let audit = json!({ "before": { "version": before.version }, "after": { "archivedAt": work.now, "version": before.version + 1 } });
        Ok(Done { id: self.id, audit, event: Some(Event::of(self.id)) })
    }
}
