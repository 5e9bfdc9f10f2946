//! What the providers said of their objects, merged so that order and repetition of the events do not matter.
//!
//! An [`Object`] is a map of fields, each with the [`Stamp`] of the event it is from. The greater stamp wins, field by
//! field, and a deletion is for good; so merging is commutative, associative and idempotent, and every permutation of a
//! history ends in the same objects. The rows of the other tables are derived from objects alone. What an event does
//! not say, it does not change: no null over a value.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::db::SystemTx;
use crate::error::{Error, Result};
use crate::webhooks::WebhookSource;
use crate::webhooks::payload::fingerprint;

/// What an object is.
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
}

impl Kind {
    const ALL: [Self; 10] = [
        Self::User,
        Self::Organization,
        Self::Membership,
        Self::Invitation,
        Self::Customer,
        Self::Subscription,
        Self::Checkout,
        Self::Product,
        Self::Price,
        Self::Entitlements,
    ];

    /// As in the table.
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
        }
    }

    fn from_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.label() == label)
    }

    fn source(self) -> WebhookSource {
        match self {
            Self::User | Self::Organization | Self::Membership | Self::Invitation => WebhookSource::Clerk,
            _ => WebhookSource::Stripe,
        }
    }

    /// The fields that hold ids of other objects, by which this one is found.
    fn references(self) -> &'static [&'static str] {
        match self {
            Self::User | Self::Product => &[],
            Self::Organization => &["slug_key", "first_slug"],
            Self::Membership => &["user", "organization"],
            Self::Invitation | Self::Customer => &["organization"],
            Self::Subscription => &["customer", "organization", "catalogue"],
            Self::Checkout => &["customer", "subscription", "organization", "reference"],
            Self::Price => &["product"],
            Self::Entitlements => &["customer"],
        }
    }
}

/// When something was said; the greater one is right. The order of the fields is the order of the comparison.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Stamp(
    /// 0: said in passing, by the event of another object; 1: by an event of its own.
    pub(crate) u8,
    /// The moment, as the source counts it.
    pub(crate) i64,
    /// Between events of one moment.
    pub(crate) i16,
    /// Between events of one moment and rank: any order will do, if it is always the same.
    pub(crate) String,
);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Field {
    at: Stamp,
    is: Value,
}

/// What one event says of one object.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) kind: Kind,
    pub(crate) id: String,
    pub(crate) at: Stamp,
    pub(crate) deleted: bool,
    pub(crate) fields: Vec<(&'static str, Value)>,
}

impl Change {
    pub(crate) fn new(kind: Kind, id: impl Into<String>, at: Stamp) -> Self {
        Self { kind, id: id.into(), at, deleted: false, fields: Vec::new() }
    }

    /// Says that the field is this, when there is something to say.
    pub(crate) fn known(mut self, field: &'static str, value: Option<impl Into<Value>>) -> Self {
        if let Some(value) = value {
            self.fields.push((field, value.into()));
        }
        self
    }

    /// Says that the field is this, or that it is empty.
    pub(crate) fn is(mut self, field: &'static str, value: Option<impl Into<Value>>) -> Self {
        self.fields.push((field, value.map_or(Value::Null, Into::into)));
        self
    }

    pub(crate) fn deleted(mut self, deleted: bool) -> Self {
        self.deleted = deleted;
        self
    }
}

/// What merging did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Merged {
    /// Everything was known, from later events.
    Stale,
    /// This event was merged before, or says what is known.
    Same,
    /// Something is known now that was not.
    New,
}

/// An object as it is known.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Object {
    pub(crate) id: String,
    pub(crate) deleted: bool,
    fields: BTreeMap<String, Field>,
}

impl Object {
    fn empty(id: &str) -> Self {
        Self { id: id.to_owned(), ..Self::default() }
    }

    /// Merges what an event says. A field named `first_…` keeps what was said first, by an event of any kind.
    pub(crate) fn merge(&mut self, change: &Change) -> Merged {
        let mut merged = Merged::Stale;
        if change.deleted {
            merged = if self.deleted { Merged::Same } else { Merged::New };
            self.deleted = true;
        }
        for (name, value) in &change.fields {
            let field = Field { at: change.at.clone(), is: value.clone() };
            let Some(known) = self.fields.get_mut(*name) else {
                self.fields.insert((*name).to_owned(), field);
                merged = Merged::New;
                continue;
            };
            let wins = if name.starts_with("first_") {
                (change.at.1, &change.at) < (known.at.1, &known.at)
            } else {
                change.at > known.at
            };
            if change.at == known.at {
                merged = merged.max(Merged::Same);
            } else if wins {
                merged = merged.max(if known.is == *value { Merged::Same } else { Merged::New });
                *known = field;
            }
        }
        merged
    }

    /// Whether nothing is known but the id, and perhaps that it is gone.
    pub(crate) fn is_blank(&self) -> bool {
        self.fields.is_empty()
    }

    /// Whether an event of its own was seen, besides those of others.
    pub(crate) fn is_confirmed(&self) -> bool {
        self.fields.values().any(|field| field.at.0 > 0)
    }

    pub(crate) fn value(&self, field: &str) -> Option<&Value> {
        self.fields.get(field).map(|field| &field.is)
    }

    pub(crate) fn text(&self, field: &str) -> Option<&str> {
        self.value(field)?.as_str()
    }

    pub(crate) fn number(&self, field: &str) -> Option<i64> {
        self.value(field)?.as_i64()
    }

    pub(crate) fn truth(&self, field: &str) -> Option<bool> {
        self.value(field)?.as_bool()
    }

    pub(crate) fn stamp(&self, field: &str) -> Option<&Stamp> {
        self.fields.get(field).map(|field| &field.at)
    }

    /// The newest moment that anything is known from.
    pub(crate) fn version(&self) -> i64 {
        self.fields.values().map(|field| field.at.1).max().unwrap_or(0)
    }

    /// Notes something of our own, which no event says.
    pub(crate) fn note(&mut self, field: &str, value: Option<String>) {
        match value {
            Some(value) => {
                let at = Stamp(0, 0, 0, String::new());
                self.fields.insert(field.to_owned(), Field { at, is: value.into() });
            }
            None => drop(self.fields.remove(field)),
        }
    }

    fn references(&self, kind: Kind) -> Vec<String> {
        let mut found = Vec::new();
        for field in kind.references() {
            match self.value(field) {
                Some(Value::String(text)) => found.push(text.clone()),
                Some(Value::Array(list)) => found.extend(list.iter().filter_map(Value::as_str).map(str::to_owned)),
                _ => {}
            }
        }
        found.sort();
        found.dedup();
        found
    }
}

/// The objects with these ids, known or not, in the order asked for. The caller holds their locks.
pub(crate) async fn load(tx: &mut SystemTx, kind: Kind, ids: &[String]) -> Result<Vec<Object>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query!(
        r#"select object_id, fields, deleted_at is not null as "deleted!" from tenantry.sync_objects
            where source = $1 and kind = $2 and object_id = any($3)"#,
        kind.source() as _,
        kind.label(),
        ids
    )
    .fetch_all(tx.conn())
    .await?;
    let mut known = BTreeMap::new();
    for row in rows {
        known.insert(row.object_id.clone(), object(row.object_id, row.fields, row.deleted)?);
    }
    Ok(ids.iter().map(|id| known.get(id).cloned().unwrap_or_else(|| Object::empty(id))).collect())
}

/// One object, known or not.
pub(crate) async fn load_one(tx: &mut SystemTx, kind: Kind, id: &str) -> Result<Object> {
    let found = load(tx, kind, &[id.to_owned()]).await?;
    Ok(found.into_iter().next().unwrap_or_else(|| Object::empty(id)))
}

/// The objects of some kinds of one source that name one of these, by id.
pub(crate) async fn naming(tx: &mut SystemTx, kinds: &[Kind], names: &[String]) -> Result<Vec<(Kind, Object)>> {
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
    rows.into_iter()
        .filter_map(|row| Some((Kind::from_label(&row.kind)?, row.object_id, row.fields, row.deleted)))
        .map(|(kind, id, fields, deleted)| Ok((kind, object(id, fields, deleted)?)))
        .collect()
}

/// The customers of subscriptions that name one of these, in order, the next so many behind one.
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

fn object(id: String, fields: Value, deleted: bool) -> Result<Object> {
    let fields = serde_json::from_value(fields).map_err(Error::internal)?;
    Ok(Object { id, deleted, fields })
}

/// Merges a change into the object and keeps the result.
pub(crate) async fn merge(tx: &mut SystemTx, object: &mut Object, change: &Change) -> Result<Merged> {
    let merged = object.merge(change);
    if merged > Merged::Stale {
        keep(tx, change.kind, object).await?;
    }
    Ok(merged)
}

/// Keeps an object as it is known. The caller holds its lock.
pub(crate) async fn keep(tx: &mut SystemTx, kind: Kind, object: &Object) -> Result<()> {
    sqlx::query!(
        "insert into tenantry.sync_objects (source, kind, object_id, fields, refs, deleted_at)
             values ($1, $2, $3, $4, $5, case when $6 then now() end)
             on conflict (source, kind, object_id) do update
                set fields = excluded.fields, refs = excluded.refs,
                    deleted_at = coalesce(sync_objects.deleted_at, excluded.deleted_at)",
        kind.source() as _,
        kind.label(),
        object.id,
        serde_json::to_value(&object.fields).map_err(Error::internal)?,
        &object.references(kind),
        object.deleted
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// What is locked, in the order in which transactions take their locks: so none waits for one that waits for it.
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

/// Takes some locks alone and shares others: the prices that all subscriptions name.
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
