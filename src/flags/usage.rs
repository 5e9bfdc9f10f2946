//! How often flags are asked for: counted in memory, written in batches. What a process that is killed had not written is lost.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::snapshot::Definitions;
use crate::db::{Db, SystemTx};
use crate::error::{Error, Result};
use crate::id::{ClientKeyId, OrganizationId};

/// Rows of one statement.
const BATCH: usize = 5000;

/// What was asked for and is not written yet.
#[derive(Debug, Default)]
pub struct Usage {
    counted: Mutex<HashMap<OrganizationId, Counted>>,
    /// Client keys, and when they were used last.
    keys: Mutex<HashMap<(OrganizationId, ClientKeyId), DateTime<Utc>>>,
    /// Requests since the start.
    requests: AtomicU64,
}

/// Of one organization.
#[derive(Debug, Default)]
struct Counted {
    /// How often for all flags.
    all: i64,
    /// How often for one.
    single: HashMap<String, i64>,
    /// When last.
    last: DateTime<Utc>,
}

/// What is written: the organization, the flag, how often, and when last.
type Row = (Uuid, String, i64, DateTime<Utc>);

impl Usage {
    /// All flags were decided for an organization.
    pub fn all(&self, organization: OrganizationId, now: DateTime<Utc>) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let mut counted = self.counted();
        let of = counted.entry(organization).or_default();
        of.all += 1;
        of.last = of.last.max(now);
    }

    /// One flag, which there is, was decided for an organization.
    pub fn one(&self, organization: OrganizationId, key: &str, now: DateTime<Utc>) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let mut counted = self.counted();
        let of = counted.entry(organization).or_default();
        of.last = of.last.max(now);
        match of.single.get_mut(key) {
            Some(times) => *times += 1,
            None => drop(of.single.insert(key.to_owned(), 1)),
        }
    }

    /// A client key was used.
    pub fn key(&self, organization: OrganizationId, key: ClientKeyId, now: DateTime<Utc>) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).insert((organization, key), now);
    }

    /// Requests of this process for one flag or for all, since its start.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    fn counted(&self) -> MutexGuard<'_, HashMap<OrganizationId, Counted>> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what was counted. While the database is away it is kept, which takes no more room than there are organizations
    /// and flags.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn flush(&self, db: &Db, definitions: &Definitions) -> Result<usize> {
        let counted = std::mem::take(&mut *self.counted());
        let rows = rows_of(&counted, definitions);
        for batch in rows.chunks(BATCH) {
            if let Err(error) = write(db, batch).await {
                if matches!(error, Error::Unavailable | Error::Timeout) {
                    self.put_back(counted);
                }
                return Err(error);
            }
        }
        let keys = std::mem::take(&mut *self.keys.lock().unwrap_or_else(PoisonError::into_inner));
        if !keys.is_empty() {
            write_keys(db, keys).await?;
        }
        Ok(rows.len())
    }

    fn put_back(&self, counted: HashMap<OrganizationId, Counted>) {
        let mut now = self.counted();
        for (organization, before) in counted {
            let of = now.entry(organization).or_default();
            of.all += before.all;
            of.last = of.last.max(before.last);
            for (key, times) in before.single {
                *of.single.entry(key).or_default() += times;
            }
        }
    }
}

/// Ordered, so that two instances take the locks of rows in one order.
fn rows_of(counted: &HashMap<OrganizationId, Counted>, definitions: &Definitions) -> Vec<Row> {
    let mut rows = Vec::new();
    for (organization, of) in counted {
        for definition in definitions.all() {
            let times = of.all + of.single.get(&definition.key).copied().unwrap_or_default();
            if times > 0 {
                rows.push((organization.uuid(), definition.key.clone(), times, of.last));
            }
        }
    }
    rows.sort_unstable();
    rows
}

async fn write(db: &Db, rows: &[Row]) -> Result<()> {
    let organizations: Vec<Uuid> = rows.iter().map(|row| row.0).collect();
    let keys: Vec<String> = rows.iter().map(|row| row.1.clone()).collect();
    let times: Vec<i64> = rows.iter().map(|row| row.2).collect();
    let last: Vec<DateTime<Utc>> = rows.iter().map(|row| row.3).collect();
    let mut tx = SystemTx::begin(db).await?;
    // A flag or an organization may be gone since.
    sqlx::query!(
        "insert into tenantry.feature_flag_usage as u (organization_id, flag_key, evaluations, last_evaluated_at)
         select c.organization, c.key, c.times, c.last
           from unnest($1::uuid[], $2::text[], $3::bigint[], $4::timestamptz[]) as c (organization, key, times, last)
           join tenantry.feature_flag_definitions d on d.key = c.key
           join tenantry.organizations o on o.id = c.organization and o.purged_at is null
          order by 1, 2
             on conflict (organization_id, flag_key) do update
            set evaluations = u.evaluations + excluded.evaluations,
                last_evaluated_at = greatest(u.last_evaluated_at, excluded.last_evaluated_at)",
        &organizations,
        &keys,
        &times,
        &last
    )
    .execute(tx.conn())
    .await?;
    tx.commit().await
}

/// A use that is not written is written with the next.
async fn write_keys(db: &Db, keys: HashMap<(OrganizationId, ClientKeyId), DateTime<Utc>>) -> Result<()> {
    let mut used: Vec<_> = keys.into_iter().map(|((of, key), at)| (of.uuid(), key.uuid(), at)).collect();
    used.sort_unstable();
    let organizations: Vec<Uuid> = used.iter().map(|one| one.0).collect();
    let ids: Vec<Uuid> = used.iter().map(|one| one.1).collect();
    let at: Vec<DateTime<Utc>> = used.iter().map(|one| one.2).collect();
    let mut tx = SystemTx::begin(db).await?;
    sqlx::query!(
        "update tenantry.client_keys k set last_used_at = u.at
           from unnest($1::uuid[], $2::uuid[], $3::timestamptz[]) as u (organization, id, at)
          where k.organization_id = u.organization and k.id = u.id and (k.last_used_at is null or k.last_used_at < u.at)",
        &organizations,
        &ids,
        &at
    )
    .execute(tx.conn())
    .await?;
    tx.commit().await
}
