//! Making and revoking client keys.

use std::sync::Arc;

use async_graphql::{Context, InputObject, Object, SimpleObject};
use chrono::Duration;
use serde_json::json;

use super::ClientKey;
use super::token::KeyPair;
use crate::access::Action;
use crate::error::Result;
use crate::graphql::mutation::{
    self, Checks, Done, Mutation, MutationInfo, UserError, UserErrorCode, VerbError, VerbResult, Work, check_version,
};
use crate::graphql::session::Session;
use crate::id::{ClientKeyId, marker};
use crate::organizations::lock_organization;

/// Most keys in force of one organization.
const MAX_KEYS: i64 = 100;
/// The longest life of a key, in days.
const MAX_DAYS: i32 = 3650;
/// The longest label of an environment.
const MAX_ENVIRONMENT: usize = 50;

/// A client key to make.
#[derive(Clone, Debug, InputObject)]
pub struct ClientKeyCreateInput {
    /// Purpose: 1 to 200 characters.
    pub name: String,
    /// The environment that it is for, as `production`: lower case letters, digits and single hyphens, 1 to 50.
    pub environment: String,
    /// How many days it is valid: 1 to 3650; without it, until it is revoked.
    pub expires_in_days: Option<i32>,
    #[graphql(skip)]
    pair: KeyPair,
}

/// The client key to revoke.
#[derive(Clone, Debug, InputObject)]
pub struct ClientKeyRevokeInput {
    /// The key.
    pub id: ClientKeyId,
    /// The version that the change is based on; another current version gives `VERSION_CONFLICT`.
    pub expected_version: Option<i32>,
}

/// The result of `clientKeyCreate`.
#[derive(Debug, SimpleObject)]
pub struct ClientKeyCreatePayload {
    /// The key; null when there are errors.
    pub client_key: Option<Arc<ClientKey>>,
    /// The private half as PEM (PKCS#8): shown only here. It belongs on a server, never into a client. Null when there are errors.
    pub private_key_pem: Option<String>,
    /// The same as a JWK, for libraries that sign with one: shown only here. Null when there are errors.
    pub private_key_jwk: Option<serde_json::Value>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The result of `clientKeyRevoke`.
#[derive(Debug, SimpleObject)]
pub struct ClientKeyRevokePayload {
    /// The key; null when there are errors.
    pub client_key: Option<Arc<ClientKey>>,
    /// Errors of the input; empty on success.
    pub user_errors: Vec<UserError>,
}

/// The mutations of the slice.
pub const MUTATIONS: &[MutationInfo] =
    &[MutationInfo::of::<ClientKeyCreateInput>(), MutationInfo::of::<ClientKeyRevokeInput>()];

/// The mutations of the slice.
#[derive(Debug, Default)]
pub struct ClientKeyMutation;

#[Object]
impl ClientKeyMutation {
    /// Makes a client key. The payload has the private half, by which the organization's backend signs client tokens; it is shown
    /// only once.
    async fn client_key_create(
        &self,
        ctx: &Context<'_>,
        input: ClientKeyCreateInput,
    ) -> Result<ClientKeyCreatePayload> {
        let pair = input.pair.clone();
        let ran = mutation::run(ctx, input).await?;
        Ok(ClientKeyCreatePayload {
            private_key_pem: ran.id.map(|_| pair.pem()),
            private_key_jwk: ran.id.map(|id| pair.jwk(id)).transpose()?,
            client_key: Session::of(ctx)?.load_written(ran.id).await?,
            user_errors: ran.user_errors,
        })
    }

    /// Revokes a client key: the tokens that it has signed are refused from now on, and their streams end.
    async fn client_key_revoke(
        &self,
        ctx: &Context<'_>,
        input: ClientKeyRevokeInput,
    ) -> Result<ClientKeyRevokePayload> {
        let ran = mutation::run(ctx, input).await?;
        Ok(ClientKeyRevokePayload {
            client_key: Session::of(ctx)?.load_written(ran.id).await?,
            user_errors: ran.user_errors,
        })
    }
}

/// Whether it is a label as the database takes it.
fn is_label(text: &str) -> bool {
    let all = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    all && (1..=MAX_ENVIRONMENT).contains(&text.len())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !text.contains("--")
}

impl Mutation for ClientKeyCreateInput {
    type Row = marker::ClientKey;
    const FIELD: &'static str = "clientKeyCreate";
    const ACTION: Action = Action::ApiKeyWrite;
    const AUDIT: &'static str = "client_key.create";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let mut checks = Checks::default();
        let name = checks.required("name", &self.name, 200);
        let environment = self.environment.trim();
        if !is_label(environment) {
            let message = format!(
                "`environment` takes lower case letters, digits and single hyphens between them, 1 to {MAX_ENVIRONMENT}."
            );
            checks.refuse("environment", UserErrorCode::Invalid, message);
        }
        checks.within("expiresInDays", self.expires_in_days, 1..=MAX_DAYS);
        checks.finish()?;
        let (tenant, now) = (work.tenant(), work.now);
        lock_organization(work.tx).await?;
        let live = sqlx::query_scalar!(
            r#"select count(*) as "count!" from tenantry.client_keys k
                where k.organization_id = $1 and k.revoked_at is null and (k.expires_at is null or k.expires_at > $2)"#,
            tenant.organization_id as _,
            now
        )
        .fetch_one(work.tx.conn())
        .await?;
        if live >= MAX_KEYS {
            let message =
                format!("The organization has {live} client keys in force, which is the most: revoke one first.");
            return Err(VerbError::of_input(UserErrorCode::Conflict, message));
        }
        let id: ClientKeyId = work.new_id();
        let public = self.pair.public()?;
        let expires_at = self.expires_in_days.map(|days| now + Duration::days(days.into()));
        sqlx::query!(
            "insert into tenantry.client_keys (organization_id, id, name, environment, public_key, expires_at, created_by, created_at)
             values ($1, $2, $3, $4, $5, $6, $7, $8)",
            tenant.organization_id as _,
            id as _,
            name,
            environment,
            public.bytes().as_slice(),
            expires_at,
            tenant.actor.user() as _,
            now
        )
        .execute(work.tx.conn())
        .await?;
        let after = json!({ "environment": environment, "expiresAt": expires_at });
        Ok(Done { id, audit: json!({ "after": after }), event: None })
    }
}

impl Mutation for ClientKeyRevokeInput {
    type Row = marker::ClientKey;
    const FIELD: &'static str = "clientKeyRevoke";
    const ACTION: Action = Action::ApiKeyWrite;
    const AUDIT: &'static str = "client_key.revoke";

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let organization = work.tenant().organization_id;
        let old = sqlx::query!(
            "select k.environment, k.version, k.revoked_at, k.expires_at from tenantry.client_keys k
              where k.organization_id = $1 and k.id = $2 for update",
            organization as _,
            self.id as _
        )
        .fetch_optional(work.tx.conn())
        .await?;
        let Some(old) = old else {
            return Err(VerbError::user("id", UserErrorCode::NotFound, "There is no such client key."));
        };
        check_version(self.expected_version, old.version)?;
        if old.revoked_at.is_some() {
            return Err(VerbError::user("id", UserErrorCode::InvalidTransition, "The client key was revoked before."));
        }
        sqlx::query!(
            "update tenantry.client_keys set revoked_at = $3, version = version + 1 where organization_id = $1 and id = $2",
            organization as _,
            self.id as _,
            work.now
        )
        .execute(work.tx.conn())
        .await?;
        let audit = json!({ "before": { "environment": old.environment, "expiresAt": old.expires_at } });
        Ok(Done { id: self.id, audit, event: None })
    }
}
