//! The mirror of the providers' objects, merged from events so that their order and repetition do not matter.
//!
//! A [`RemoteObject`] has fields ([`objects`]), each with the [`FieldVersion`] of the event it is from. The greater
//! version wins, field by field, and a deletion is final; so merging is commutative, associative and idempotent, and
//! every permutation of a history ends in the same objects. The rows of the other tables are derived from objects
//! alone. An event does not change what it does not mention: no null over a value.

mod field;
mod locks;
mod objects;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub(crate) use field::{Each, FieldVersion, First, Latest, Merged, Register, Stretch};
pub(crate) use locks::{Lock, lock, lock_with};
pub(crate) use objects::{
    Attribution, Checkout, Customer, Entitlements, Happened, Invitation, InvitationStatus, Invoice, Item, Membership,
    Organization, Payment, Price, Product, Refund, Subscription, User,
};

use crate::db::SystemTx;
use crate::error::{Error, Result};
use crate::webhook_events::WebhookSource;

/// The kinds of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    User,
    Organization,
    Membership,
    Invitation,
    Customer,
    Subscription,
    Checkout,
    Product,
    Price,
    Entitlements,
    Attribution,
    Invoice,
    Payment,
    Refund,
}

impl Kind {
    /// Its name in the table.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Organization => "organization",
            Self::Membership => "membership",
            Self::Invitation => "invitation",
            Self::Customer => "customer",
            Self::Subscription => "subscription",
            Self::Checkout => "checkout",
            Self::Product => "product",
            Self::Price => "price",
            Self::Entitlements => "entitlements",
            Self::Attribution => "attribution",
            Self::Invoice => "invoice",
            Self::Payment => "payment",
            Self::Refund => "refund",
        }
    }

    fn from_label(label: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.label() == label)
    }

    fn source(self) -> WebhookSource {
        match self {
            Self::User | Self::Organization | Self::Membership | Self::Invitation => WebhookSource::Clerk,
            _ => WebhookSource::Stripe,
        }
    }
}

/// The fields of a kind of object.
pub(crate) trait Fields: Clone + Default + PartialEq + Serialize + DeserializeOwned {
    /// The kind.
    const KIND: Kind;

    /// Merges what an event says, field by field.
    fn merge(&mut self, change: &Self) -> Merged;

    /// The versions of the fields that are known.
    fn versions(&self) -> impl Iterator<Item = &FieldVersion>;

    /// The ids of other objects by which this one is found, sorted.
    fn references(&self) -> Vec<String>;
}

/// What one event says of one object.
#[derive(Clone, Debug)]
pub(crate) struct RemoteChange<F> {
    pub(crate) id: String,
    pub(crate) at: FieldVersion,
    pub(crate) deleted: bool,
    pub(crate) fields: F,
}

/// An object as it is known.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RemoteObject<F> {
    pub(crate) id: String,
    pub(crate) deleted: bool,
    pub(crate) fields: F,
}

impl<F: Fields> RemoteObject<F> {
    fn unknown(id: &str) -> Self {
        Self { id: id.to_owned(), deleted: false, fields: F::default() }
    }

    /// Merges what an event says.
    pub(crate) fn merge(&mut self, change: &RemoteChange<F>) -> Merged {
        let deletion = match (change.deleted, self.deleted) {
            (false, _) => Merged::Stale,
            (true, true) => Merged::Same,
            (true, false) => Merged::New,
        };
        self.deleted |= change.deleted;
        deletion.max(self.fields.merge(&change.fields))
    }

    /// Whether nothing is known but the id, and perhaps that it was deleted.
    pub(crate) fn is_blank(&self) -> bool {
        self.fields.versions().next().is_none()
    }

    /// Whether an event of its own was seen, not only mentions by others.
    pub(crate) fn is_confirmed(&self) -> bool {
        self.fields.versions().any(|version| version.authority > 0)
    }

    /// The newest moment that anything is known from.
    pub(crate) fn version(&self) -> i64 {
        self.fields.versions().map(|version| version.moment).max().unwrap_or(0)
    }
}

/// An object as it is stored, of any kind.
#[derive(Debug)]
pub(crate) struct StoredObject {
    pub(crate) kind: Kind,
    pub(crate) id: String,
    fields: Value,
    deleted: bool,
}

impl StoredObject {
    /// Reads the fields, which must be of this kind.
    pub(crate) fn read<F: Fields>(self) -> Result<RemoteObject<F>> {
        read(self.id, self.fields, self.deleted)
    }
}

fn read<F: Fields>(id: String, fields: Value, deleted: bool) -> Result<RemoteObject<F>> {
    let fields = serde_json::from_value(fields).map_err(Error::internal)?;
    Ok(RemoteObject { id, deleted, fields })
}

/// The objects with these ids, known or not, in the order asked for. The caller holds their locks.
pub(crate) async fn load<F: Fields>(tx: &mut SystemTx, ids: &[String]) -> Result<Vec<RemoteObject<F>>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query!(
        r#"select object_id, fields, deleted_at is not null as "deleted!" from tenantry.sync_objects
            where source = $1 and kind = $2 and object_id = any($3)"#,
        F::KIND.source() as _,
        F::KIND.label(),
        ids
    )
    .fetch_all(tx.conn())
    .await?;
    let mut known = BTreeMap::new();
    for row in rows {
        known.insert(row.object_id.clone(), read(row.object_id, row.fields, row.deleted)?);
    }
    Ok(ids.iter().map(|id| known.get(id).cloned().unwrap_or_else(|| RemoteObject::unknown(id))).collect())
}

/// One object, known or not.
pub(crate) async fn load_one<F: Fields>(tx: &mut SystemTx, id: &str) -> Result<RemoteObject<F>> {
    let found = load(tx, &[id.to_owned()]).await?;
    Ok(found.into_iter().next().unwrap_or_else(|| RemoteObject::unknown(id)))
}

/// The objects of some kinds of one source that refer to one of these, by id.
pub(crate) async fn stored_naming(tx: &mut SystemTx, kinds: &[Kind], names: &[String]) -> Result<Vec<StoredObject>> {
    let Some(first) = kinds.first().filter(|_| !names.is_empty()) else { return Ok(Vec::new()) };
    let labels: Vec<String> = kinds.iter().map(|kind| kind.label().to_owned()).collect();
    let rows = sqlx::query!(
        r#"select kind, object_id, fields, deleted_at is not null as "deleted!" from tenantry.sync_objects
            where source = $1 and kind = any($2) and refs && $3
            order by kind, object_id"#,
        first.source() as _,
        &labels,
        names
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            let kind = Kind::from_label(&row.kind)?;
            Some(StoredObject { kind, id: row.object_id, fields: row.fields, deleted: row.deleted })
        })
        .collect())
}

/// The objects of one kind that refer to one of these, by id.
pub(crate) async fn naming<F: Fields>(tx: &mut SystemTx, names: &[String]) -> Result<Vec<RemoteObject<F>>> {
    stored_naming(tx, &[F::KIND], names).await?.into_iter().map(StoredObject::read).collect()
}

/// The customers that refer to one of these, or have a subscription or a checkout that does.
pub(crate) async fn customers_naming(tx: &mut SystemTx, names: &[String]) -> Result<BTreeSet<String>> {
    let mut customers = BTreeSet::new();
    for stored in stored_naming(tx, &[Kind::Customer, Kind::Subscription, Kind::Checkout], names).await? {
        customers.extend(match stored.kind {
            Kind::Customer => Some(stored.id),
            Kind::Checkout => stored.read::<Checkout>()?.fields.customer.text().map(str::to_owned),
            _ => stored.read::<Subscription>()?.fields.customer.text().map(str::to_owned),
        });
    }
    Ok(customers)
}

/// The customers of subscriptions that refer to one of these, sorted, the next `limit` after `behind`.
pub(crate) async fn customers_of(
    tx: &mut SystemTx,
    names: &[String],
    behind: &str,
    limit: usize,
) -> Result<Vec<String>> {
    let customers = sqlx::query_scalar!(
        r#"select distinct fields #>> '{customer,is}' collate "C" as "customer!" from tenantry.sync_objects
            where source = 'STRIPE' and kind = 'subscription' and refs && $1
              and fields #>> '{customer,is}' > $2 collate "C"
            order by 1 limit $3"#,
        names,
        behind,
        i64::try_from(limit).unwrap_or(i64::MAX)
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(customers)
}

/// Merges a change into the object and stores the result.
pub(crate) async fn merge<F: Fields>(
    tx: &mut SystemTx,
    object: &mut RemoteObject<F>,
    change: &RemoteChange<F>,
) -> Result<Merged> {
    merge_all(tx, object, std::slice::from_ref(change)).await
}

/// The same for several changes, in their order; how much is new is that of the greatest.
pub(crate) async fn merge_all<F: Fields>(
    tx: &mut SystemTx,
    object: &mut RemoteObject<F>,
    changes: &[RemoteChange<F>],
) -> Result<Merged> {
    let merged = changes.iter().map(|change| object.merge(change)).max().unwrap_or(Merged::Stale);
    if merged > Merged::Stale {
        keep(tx, object).await?;
    }
    Ok(merged)
}

/// Stores an object as it is known. The caller holds its lock.
pub(crate) async fn keep<F: Fields>(tx: &mut SystemTx, object: &RemoteObject<F>) -> Result<()> {
    sqlx::query!(
        "insert into tenantry.sync_objects (source, kind, object_id, fields, refs, deleted_at)
             values ($1, $2, $3, $4, $5, case when $6 then now() end)
             on conflict (source, kind, object_id) do update
                set fields = excluded.fields, refs = excluded.refs,
                    deleted_at = coalesce(sync_objects.deleted_at, excluded.deleted_at)",
        F::KIND.source() as _,
        F::KIND.label(),
        object.id,
        serde_json::to_value(&object.fields).map_err(Error::internal)?,
        &object.fields.references(),
        object.deleted
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
