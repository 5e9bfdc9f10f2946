//! Advisory locks on what the mirror knows, and on what is derived from it.

use std::collections::BTreeMap;

use crate::db::SystemTx;
use crate::error::Result;
use crate::sync::payload::fingerprint;

/// What is locked. Transactions take their locks in this order, so that none waits for one that waits for it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lock {
    /// An object of the provider that is neither a user nor an organization.
    Object(String),
    /// A user, by the provider's id.
    User(String),
    /// An e-mail address, in lower case.
    Email(String),
    /// Whether there is an organization with this id at the identity provider.
    Organization(String),
    /// A slug.
    Slug(String),
    /// What is derived for one of our organizations.
    Tenant(uuid::Uuid),
}

impl Lock {
    fn key(&self) -> i64 {
        let text = match self {
            Self::Object(id) => format!("object {id}"),
            Self::User(id) => format!("user {id}"),
            Self::Email(address) => format!("email {address}"),
            Self::Organization(id) => format!("organization {id}"),
            Self::Tenant(id) => format!("tenant {id}"),
            Self::Slug(slug) => format!("slug {slug}"),
        };
        i64::from_str_radix(&fingerprint(&text), 16).unwrap_or_default()
    }
}

/// Takes the locks, to the end of the transaction.
pub(crate) async fn lock(tx: &mut SystemTx, locks: impl IntoIterator<Item = Lock>) -> Result<()> {
    lock_with(tx, locks, Vec::new()).await
}

/// Takes some locks alone and shares others: all subscriptions name the same few prices.
pub(crate) async fn lock_with(
    tx: &mut SystemTx,
    alone: impl IntoIterator<Item = Lock>,
    shared: impl IntoIterator<Item = Lock>,
) -> Result<()> {
    let mut all: BTreeMap<Lock, bool> = shared.into_iter().map(|lock| (lock, true)).collect();
    all.extend(alone.into_iter().map(|lock| (lock, false)));
    if all.is_empty() {
        return Ok(());
    }
    // Members change under the lock of their organization's row, here as in the API: seats are counted under it. It comes before the
    // lock of what is derived, because an event of the organization has changed the row by then.
    let tenants: Vec<uuid::Uuid> =
        all.keys().filter_map(|lock| if let Lock::Tenant(id) = lock { Some(*id) } else { None }).collect();
    if !tenants.is_empty() {
        sqlx::query!(
            "select id from tenantry.organizations where id = any($1) order by id for no key update",
            &tenants
        )
        .fetch_all(tx.conn())
        .await?;
    }
    let (keys, together): (Vec<i64>, Vec<bool>) = all.iter().map(|(lock, shared)| (lock.key(), *shared)).unzip();
    sqlx::query!(
        "select case when shared then pg_advisory_xact_lock_shared(key) else pg_advisory_xact_lock(key) end
           from unnest($1::bigint[], $2::boolean[]) as l(key, shared)",
        &keys,
        &together
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
