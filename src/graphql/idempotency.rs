//! Idempotency keys: a request that is repeated with its key is done once.
//!
//! A key belongs to the user in the organization. Two requests are the same when the canonical JSON of their arguments
//! is: objects with sorted keys, without the key itself, variables filled in. It is made from what the client sent and
//! not from our types, so that a field renamed in Rust, or one added to the input, breaks no repeated request across a
//! deploy.

use std::collections::BTreeMap;

use async_graphql::Context;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use sqlx::Arguments as _;
use sqlx::postgres::PgArguments;
use uuid::Uuid;

use crate::access::Tenant;
use crate::db::TenantTx;
use crate::error::{Error, Result};
use crate::graphql::mutation::{UserErrorCode, VerbError, VerbResult};
use crate::json::canonical;

/// What an idempotency key says about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing: the work is to be done.
    No,
    /// The work was done; this row came of it.
    Done(Uuid),
}

/// A request with its idempotency key.
#[derive(Debug)]
pub(super) struct KeyedRequest {
    key: String,
    operation: &'static str,
    hash: Vec<u8>,
}

impl KeyedRequest {
    /// Reads the request of this root field.
    pub(super) fn new(ctx: &Context<'_>, operation: &'static str, key: &str) -> VerbResult<Self> {
        if key.is_empty() || key.chars().count() > 255 || key.contains('\0') {
            return Err(VerbError::user(
                "idempotencyKey",
                UserErrorCode::Invalid,
                "`idempotencyKey` takes 1 to 255 characters.",
            ));
        }
        let mut arguments = BTreeMap::new();
        for (name, value) in ctx.field().arguments().map_err(|error| Error::internal(error.message))? {
            arguments.insert(name.to_string(), value.into_json().map_err(Error::internal)?);
        }
        let hash = request_hash(operation, &arguments.remove("input").unwrap_or_default());
        Ok(Self { key: key.to_owned(), operation, hash })
    }

    /// Claims the key for this transaction, and remembers the request under it. Two requests with it at once: the second is
    /// refused, not kept waiting.
    pub(super) async fn claim(&self, tx: &mut TenantTx) -> VerbResult<Known> {
        let tenant = tx.tenant();
        let lock = advisory_lock(&[
            tenant.organization_id.uuid().as_bytes(),
            tenant.actor.uuid().as_bytes(),
            self.key.as_bytes(),
        ]);
        // Whether there is one, the unique key says, and no snapshot from before the lock.
        let claim = sqlx::query!(
            r#"with claim as (select pg_try_advisory_xact_lock($1) as is_free),
                    made as (insert into tenantry.idempotency_keys (organization_id, actor_id, key, operation, request_hash)
                             select $2, $3, $4, $5, $6 from claim where is_free on conflict do nothing returning key)
               select is_free as "is_free!", exists (select from made) as "is_new!" from claim"#,
            lock,
            tenant.organization_id as _,
            tenant.actor.uuid(),
            self.key,
            self.operation,
            self.hash
        )
        .fetch_one(tx.conn())
        .await?;
        if !claim.is_free {
            return Err(VerbError::user(
                "idempotencyKey",
                UserErrorCode::IdempotencyConcurrentRequest,
                "A request with this key is being worked on: ask again in a moment to see its result.",
            ));
        }
        if claim.is_new {
            return Ok(Known::No);
        }
        let known = sqlx::query!(
            "select request_hash, resource_id from tenantry.idempotency_keys where organization_id = $1 and actor_id = $2 and key = $3",
            tenant.organization_id as _,
            tenant.actor.uuid(),
            self.key
        )
        .fetch_one(tx.conn())
        .await?;
        if known.request_hash != self.hash {
            return Err(VerbError::user(
                "idempotencyKey",
                UserErrorCode::IdempotencyKeyParameterMismatch,
                "This key was used before with other arguments: use a new key for a new request.",
            ));
        }
        match known.resource_id {
            Some(id) => Ok(Known::Done(id)),
            None => Err(Error::internal("an idempotency key without its row").into()),
        }
    }

    /// The part of the statement that ends a mutation which remembers what came of it. Its values are added to the arguments, of
    /// which `$1` is the organization and `$6` the row.
    ///
    /// # Errors
    /// [`Error::Internal`] when a value cannot be sent.
    pub(super) fn remembering(&self, arguments: &mut PgArguments, tenant: Tenant) -> Result<String> {
        let [actor, key] = std::array::from_fn(|at| arguments.len() + 1 + at);
        arguments.add(tenant.actor.uuid()).map_err(Error::internal)?;
        arguments.add(&self.key).map_err(Error::internal)?;
        Ok(format!(
            "update tenantry.idempotency_keys set resource_id = $6 where organization_id = $1 and actor_id = ${actor} and key = ${key}"
        ))
    }
}

/// The hash of a request: of the operation and the canonical JSON of its input.
fn request_hash(operation: &str, input: &Value) -> Vec<u8> {
    let mut input = input.clone();
    if let Value::Object(fields) = &mut input {
        fields.remove("idempotencyKey");
    }
    let text = canonical(&input);
    Sha256::new().chain_update(operation).chain_update([0]).chain_update(text).finalize().to_vec()
}

fn advisory_lock(parts: &[&[u8]]) -> i64 {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    let digest = hasher.finalize();
    i64::from_be_bytes(std::array::from_fn(|i| digest[i]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_hash_of_a_request_is_pinned() {
        let input = json!({ "subject": "A \"bill\"", "tags": ["b", "a"], "priority": "HIGH", "idempotencyKey": "k" });
        let hash = uuid::Uuid::from_slice(&request_hash("ticketCreate", &input)[..16]).expect("16 bytes").simple();
        assert_eq!(
            hash.to_string(),
            "588eb671d9d4552d31452f8764d3bce2",
            "stored keys must keep their meaning across deploys"
        );
    }

    #[test]
    fn the_order_of_fields_and_the_key_do_not_matter() {
        let one = json!({ "a": { "x": 1, "idempotencyKey": 2 }, "b": null, "idempotencyKey": "k" });
        let two = json!({ "idempotencyKey": "other", "b": null, "a": { "idempotencyKey": 2, "x": 1 } });
        assert_eq!(request_hash("f", &one), request_hash("f", &two));
        // What is left out and what is null are two things: one keeps a value, the other removes it.
        assert_ne!(request_hash("f", &one), request_hash("f", &json!({ "a": { "x": 1, "idempotencyKey": 2 } })));
        assert_ne!(request_hash("f", &one), request_hash("g", &one));
    }
}
