//! Making, rotating and revoking keys.

use std::sync::Arc;

use async_graphql::{Context, InputObject, Object, SimpleObject};
use chrono::{DateTime, Duration, Utc};
use serde_json::json;

use super::ApiKey;
use crate::access::{Action, Actions};
use crate::auth::api_key::ApiKeySecret;
use crate::db::TenantTx;
use crate::error::Result;
use crate::events::Event;
use crate::graphql::mutation::{
    self, Checks, Done, Mutation, MutationInfo, Ran, UserError, UserErrorCode, VerbError, VerbResult, Work,
};
use crate::graphql::session::Session;
use crate::id::{ApiKeyId, marker};
use crate::network::Network;
use crate::organizations::lock_organization;

/// Most keys in force of one organization.
const MAX_KEYS: i64 = 100;
/// The longest life of a key, in days.
const MAX_DAYS: i32 = 3650;
/// How long two keys are live at once after a rotation, in hours, unless said.
const OVERLAP_HOURS: i32 = 24;
/// The longest, in hours.
const MAX_OVERLAP_HOURS: i32 = 720;
/// Most networks of a key.
const MAX_NETWORKS: usize = 100;

/// A key to make.
#[derive(Clone, Debug, InputObject)]
pub struct ApiKeyCreateInput {
    /// Purpose: 1 to 200 characters.
    pub name: String,
    /// The actions that the key may take, at least one; of the viewer's own, and none that is for people.
    pub scopes: Vec<Action>,
    /// How many days it is valid: 1 to 3650; without it, until it is revoked.
    pub expires_in_days: Option<i32>,
    /// Where requests with the key may come from: addresses or networks (`203.0.113.7`, `10.0.0.0/8`, `2001:db8::/32`), at most
    /// 100. Empty or missing: anywhere.
    pub allowed_networks: Option<Vec<String>>,
    #[graphql(skip)]
    secret: ApiKeySecret,
}

/// The key to rotate.
#[derive(Clone, Debug, InputObject)]
pub struct ApiKeyRotateInput {
    /// The key.
    pub id: ApiKeyId,
    /// For how many hours the old key remains valid beside the new one: 0 to 720, 24 by default.
    pub overlap_hours: Option<i32>,
    #[graphql(skip)]
    secret: ApiKeySecret,
}

/// The key to revoke.
#[derive(Clone, Debug, InputObject)]
pub struct ApiKeyRevokeInput {
    /// The key.
    pub id: ApiKeyId,
}

/// The result of `apiKeyCreate` and `apiKeyRotate`.
#[derive(Debug, SimpleObject)]
pub struct ApiKeySecretPayload {
    /// The key; null when there are errors.
    pub api_key: Option<Arc<ApiKey>>,
    /// The key itself, to be sent as `Authorization: Bearer <key>`: shown only here. Null when there are errors.
    pub secret: Option<String>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The result of `apiKeyRevoke`.
#[derive(Debug, SimpleObject)]
pub struct ApiKeyRevokePayload {
    /// The key; null when there are errors.
    pub api_key: Option<Arc<ApiKey>>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The mutations of the slice.
pub const MUTATIONS: &[MutationInfo] = &[
    MutationInfo::of::<ApiKeyCreateInput>(),
    MutationInfo::of::<ApiKeyRotateInput>(),
    MutationInfo::of::<ApiKeyRevokeInput>(),
];

/// The mutations of the slice.
#[derive(Debug, Default)]
pub struct ApiKeyMutation;

#[Object]
impl ApiKeyMutation {
    /// Makes an API key. The payload has the key, which is shown only once.
    async fn api_key_create(&self, ctx: &Context<'_>, input: ApiKeyCreateInput) -> Result<ApiKeySecretPayload> {
        let secret = input.secret.clone();
        secret_payload(ctx, mutation::run(ctx, input).await?, &secret).await
    }

    /// Makes a key that takes the place of another: with its name, scopes, networks and length of life. The old one expires
    /// when the overlap ends.
    async fn api_key_rotate(&self, ctx: &Context<'_>, input: ApiKeyRotateInput) -> Result<ApiKeySecretPayload> {
        let secret = input.secret.clone();
        secret_payload(ctx, mutation::run(ctx, input).await?, &secret).await
    }

    /// Revokes a key: requests with it are refused from now on, and its streams end.
    async fn api_key_revoke(&self, ctx: &Context<'_>, input: ApiKeyRevokeInput) -> Result<ApiKeyRevokePayload> {
        let ran = mutation::run(ctx, input).await?;
        Ok(ApiKeyRevokePayload { api_key: Session::of(ctx)?.load_written(ran.id).await?, user_errors: ran.user_errors })
    }
}

async fn secret_payload(
    ctx: &Context<'_>,
    ran: Ran<marker::ApiKey>,
    secret: &ApiKeySecret,
) -> Result<ApiKeySecretPayload> {
    Ok(ApiKeySecretPayload {
        secret: ran.id.map(|_| secret.text().to_owned()),
        api_key: Session::of(ctx)?.load_written(ran.id).await?,
        user_errors: ran.user_errors,
    })
}

/// Refuses scopes that the viewer does not have, or that no program may have.
fn check_scopes(checks: &mut Checks, work: &Work<'_>, scopes: &[Action]) {
    if scopes.is_empty() {
        checks.refuse("scopes", UserErrorCode::Blank, "`scopes` names at least one action.");
    }
    for action in scopes {
        let label = action.label();
        if action.is_personal() {
            checks.refuse("scopes", UserErrorCode::Invalid, format!("{label} is for people: no key can have it."));
        } else if !work.tenant().allowed.has(*action) {
            let message = format!("You may not give {label}, which you do not have yourself.");
            checks.refuse("scopes", UserErrorCode::BeyondOwnRole, message);
        }
    }
}

fn check_networks(checks: &mut Checks, given: &[String]) -> Vec<String> {
    if given.len() > MAX_NETWORKS {
        let message = format!("`allowedNetworks` takes at most {MAX_NETWORKS}.");
        checks.refuse("allowedNetworks", UserErrorCode::TooLong, message);
        return Vec::new();
    }
    let mut networks = Vec::with_capacity(given.len());
    for text in given {
        match text.parse::<Network>() {
            Ok(network) => networks.push(network.to_string()),
            Err(message) => checks.refuse("allowedNetworks", UserErrorCode::Invalid, message),
        }
    }
    networks
}

/// A key to insert.
struct NewKey<'a> {
    id: ApiKeyId,
    name: &'a str,
    secret: &'a ApiKeySecret,
    scopes: &'a [String],
    networks: &'a [String],
    rotated_from: Option<ApiKeyId>,
    expires_at: Option<DateTime<Utc>>,
}

/// Inserts a key, unless the organization has as many as it may.
async fn insert(work: &mut Work<'_>, new: &NewKey<'_>) -> VerbResult<()> {
    let (tenant, now) = (work.tenant(), work.now);
    lock_organization(work.tx).await?;
    let live = sqlx::query_scalar!(
        r#"select count(*) as "count!" from tenantry.api_keys k
            where k.organization_id = $1 and k.revoked_at is null and (k.expires_at is null or k.expires_at > $2)"#,
        tenant.organization_id as _,
        now
    )
    .fetch_one(work.tx.conn())
    .await?;
    if live >= MAX_KEYS {
        let message = format!("The organization has {live} keys in force, which is the most: revoke one first.");
        return Err(VerbError::of_input(UserErrorCode::Conflict, message));
    }
    let hash = new.secret.hash();
    sqlx::query!(
        "insert into tenantry.api_keys (organization_id, id, name, prefix, key_hash, scopes, allowed_networks, rotated_from, expires_at, created_by, created_at)
         values ($1, $2, $3, $4, $5, $6, ($7::text[])::cidr[], $8, $9, $10, $11)",
        tenant.organization_id as _,
        new.id as _,
        new.name,
        new.secret.shown(),
        hash.as_slice(),
        new.scopes,
        new.networks,
        new.rotated_from as _,
        new.expires_at,
        tenant.actor.user() as _,
        now
    )
    .execute(work.tx.conn())
    .await?;
    Ok(())
}

impl Mutation for ApiKeyCreateInput {
    type Row = marker::ApiKey;
    const FIELD: &'static str = "apiKeyCreate";
    const ACTION: Action = Action::ApiKeyWrite;
    const AUDIT: &'static str = "api_key.create";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let mut checks = Checks::default();
        let name = checks.required("name", &self.name, 200);
        check_scopes(&mut checks, work, &self.scopes);
        let networks = check_networks(&mut checks, &self.allowed_networks.unwrap_or_default());
        if self.expires_in_days.is_some_and(|days| !(1..=MAX_DAYS).contains(&days)) {
            let message = format!("`expiresInDays` takes 1 to {MAX_DAYS}.");
            checks.refuse("expiresInDays", UserErrorCode::Invalid, message);
        }
        checks.finish()?;
        // Each once, in the order of the matrix.
        let set: Actions = self.scopes.iter().copied().collect();
        let scopes: Vec<String> = set.iter().map(|action| action.label().to_owned()).collect();
        let new = NewKey {
            id: work.new_id(),
            name: &name,
            secret: &self.secret,
            scopes: &scopes,
            networks: &networks,
            rotated_from: None,
            expires_at: self.expires_in_days.map(|days| work.now + Duration::days(days.into())),
        };
        insert(work, &new).await?;
        let after = json!({ "prefix": self.secret.shown(), "scopes": scopes, "allowedNetworks": networks, "expiresAt": new.expires_at });
        Ok(Done { id: new.id, audit: json!({ "after": after }), event: None })
    }
}

/// A key in the hands of a verb.
struct LockedKey {
    name: String,
    scopes: Vec<String>,
    networks: Vec<String>,
    created_at: DateTime<Utc>,
    expires_at: Option<DateTime<Utc>>,
    is_revoked: bool,
    is_rotated: bool,
}

async fn lock(tx: &mut TenantTx, id: ApiKeyId) -> VerbResult<LockedKey> {
    let organization = tx.tenant().organization_id;
    let key = sqlx::query_as!(
        LockedKey,
        r#"select k.name, k.scopes, k.allowed_networks::text[] as "networks!", k.created_at, k.expires_at,
                  k.revoked_at is not null as "is_revoked!",
                  exists (select from tenantry.api_keys n where n.organization_id = k.organization_id and n.rotated_from = k.id) as "is_rotated!"
             from tenantry.api_keys k where k.organization_id = $1 and k.id = $2 for update of k"#,
        organization as _,
        id as _
    )
    .fetch_optional(tx.conn())
    .await?;
    key.ok_or_else(|| VerbError::user("id", UserErrorCode::NotFound, "There is no such key."))
}

impl Mutation for ApiKeyRotateInput {
    type Row = marker::ApiKey;
    const FIELD: &'static str = "apiKeyRotate";
    const ACTION: Action = Action::ApiKeyWrite;
    const AUDIT: &'static str = "api_key.rotate";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let mut checks = Checks::default();
        let overlap = self.overlap_hours.unwrap_or(OVERLAP_HOURS);
        if !(0..=MAX_OVERLAP_HOURS).contains(&overlap) {
            let message = format!("`overlapHours` takes 0 to {MAX_OVERLAP_HOURS}.");
            checks.refuse("overlapHours", UserErrorCode::Invalid, message);
        }
        checks.finish()?;
        lock_organization(work.tx).await?;
        let old = lock(work.tx, self.id).await?;
        if old.is_revoked || old.expires_at.is_some_and(|at| at <= work.now) {
            let message = "The key was revoked or has expired: make another one (apiKeyCreate).";
            return Err(VerbError::user("id", UserErrorCode::InvalidTransition, message));
        }
        if old.is_rotated {
            let message = "Another key took the place of this one already: rotate that, or revoke this.";
            return Err(VerbError::user("id", UserErrorCode::InvalidTransition, message));
        }
        if !Actions::of_key(&old.scopes.join(",")).within(work.tenant().allowed) {
            let message = "The key may do what you may not: somebody with its scopes has to rotate it.";
            return Err(VerbError::user("id", UserErrorCode::BeyondOwnRole, message));
        }
        let ends = work.now + Duration::hours(overlap.into());
        let ends = old.expires_at.map_or(ends, |at| at.min(ends));
        let organization = work.tenant().organization_id;
        sqlx::query!(
            "update tenantry.api_keys set expires_at = $3 where organization_id = $1 and id = $2",
            organization as _,
            self.id as _,
            ends
        )
        .execute(work.tx.conn())
        .await?;
        let new = NewKey {
            id: work.new_id(),
            name: &old.name,
            secret: &self.secret,
            scopes: &old.scopes,
            networks: &old.networks,
            rotated_from: Some(self.id),
            expires_at: old.expires_at.map(|at| work.now + (at - old.created_at)),
        };
        insert(work, &new).await?;
        let after = json!({ "prefix": self.secret.shown(), "expiresAt": new.expires_at, "from": self.id.to_string(), "overlapEnds": ends });
        Ok(Done { id: new.id, audit: json!({ "after": after }), event: None })
    }
}

impl Mutation for ApiKeyRevokeInput {
    type Row = marker::ApiKey;
    const FIELD: &'static str = "apiKeyRevoke";
    const ACTION: Action = Action::ApiKeyWrite;
    const AUDIT: &'static str = "api_key.revoke";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let old = lock(work.tx, self.id).await?;
        if old.is_revoked {
            return Err(VerbError::user("id", UserErrorCode::InvalidTransition, "The key was revoked before."));
        }
        let organization = work.tenant().organization_id;
        sqlx::query!(
            "update tenantry.api_keys set revoked_at = $3 where organization_id = $1 and id = $2",
            organization as _,
            self.id as _,
            work.now
        )
        .execute(work.tx.conn())
        .await?;
        let audit = json!({ "before": { "scopes": old.scopes, "expiresAt": old.expires_at } });
        Ok(Done { id: self.id, audit, event: Some(Event::access_of_key(self.id)) })
    }
}
