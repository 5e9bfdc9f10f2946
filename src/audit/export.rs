//! The log of an organization as lines of JSON, with its chain: for operators whole, and for its members as it grows.

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::chain::{self, BEGINNING, Hash, PAGE};
use crate::access::Action;
use crate::db::{Conn, Db, SystemTx};
use crate::error::{Error, Result};
use crate::graphql::session::Session;
use crate::hex::hex;
use crate::id::OrganizationId;

/// Which rows to export.
#[derive(Clone, Copy, Debug)]
pub struct Export {
    /// Of this organization.
    pub organization: OrganizationId,
    /// From here on.
    pub since: Option<DateTime<Utc>>,
    /// Before this.
    pub until: Option<DateTime<Utc>>,
}

/// What was exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exported {
    /// How many rows.
    pub rows: u64,
    /// The place of the last one in the chain.
    pub position: i64,
    /// Its hash, to be kept elsewhere.
    pub hash: Hash,
}

/// Seals and reads the audit log of an organization, in the order of its chain, and gives each row to `write` as JSON with
/// `position`, `previous` and `hash`. A thousand rows are in memory at once.
///
/// # Errors
/// The database could not be asked, or `write` failed.
pub async fn export<E: From<Error>>(
    db: &Db,
    export: Export,
    mut write: impl FnMut(&Value) -> std::result::Result<(), E>,
) -> std::result::Result<Exported, E> {
    chain::seal(db, export.organization).await?;
    let mut tx = SystemTx::begin(db).await?;
    let mut done = Exported { rows: 0, position: 0, hash: BEGINNING };
    loop {
        let (rows, is_last) = next(tx.conn(), export.organization, &mut done, (export.since, export.until)).await?;
        rows.iter().try_for_each(&mut write)?;
        if is_last {
            break;
        }
    }
    tx.commit().await?;
    Ok(done)
}

/// Some rows of a log.
#[derive(Debug)]
pub struct Read {
    /// Whose they are.
    pub organization: OrganizationId,
    pub rows: Vec<Value>,
    /// The place of the last.
    pub position: i64,
    /// Whether there are no more now.
    pub is_last: bool,
}

/// Some rows of the log of the viewer's organization after a place of its chain. Rows are there once they are sealed.
///
/// # Errors
/// As of any field that needs `AUDIT_READ`.
pub async fn read_on(session: &Session, after: i64) -> Result<Read> {
    // Reading notes the use of a key.
    session.require(Action::AuditRead).await?;
    let mut tx = session.write(Action::AuditRead).await?;
    let organization = tx.tenant().organization_id;
    let mut done = Exported { rows: 0, position: after, hash: hash_at(tx.conn(), organization, after).await? };
    let (rows, is_last) = next(tx.conn(), organization, &mut done, (None, None)).await?;
    Ok(Read { organization, rows, position: done.position, is_last })
}

/// The rows of the next places, and whether these were the last.
async fn next(
    conn: &mut Conn,
    organization: OrganizationId,
    done: &mut Exported,
    times: (Option<DateTime<Utc>>, Option<DateTime<Utc>>),
) -> Result<(Vec<Value>, bool)> {
    let page = chain::page(conn, organization, done.position, times).await?;
    let is_last = i64::try_from(page.len()).is_ok_and(|rows| rows < PAGE);
    let mut rows = Vec::with_capacity(page.len());
    for sealed in page {
        // Before the first row of a part stands one that the part does not have.
        if sealed.position != done.position + 1 {
            done.hash = hash_at(conn, organization, sealed.position - 1).await?;
        }
        let hash = sealed.hash.try_into().unwrap_or(BEGINNING);
        // A row that is not kept any more is in the chain, and not in the log.
        if let Some(row) = sealed.row {
            let mut row = row.json(sealed.position);
            row["previous"] = hex(&done.hash).into();
            row["hash"] = hex(&hash).into();
            rows.push(row);
            done.rows += 1;
        }
        (done.position, done.hash) = (sealed.position, hash);
    }
    Ok((rows, is_last))
}

async fn hash_at(conn: &mut Conn, organization: OrganizationId, position: i64) -> Result<Hash> {
    let hash = sqlx::query_scalar!(
        "select hash from tenantry.audit_seals where organization_id = $1 and position = $2",
        organization as _,
        position
    )
    .fetch_optional(conn)
    .await?;
    Ok(hash.and_then(|hash| hash.try_into().ok()).unwrap_or(BEGINNING))
}
