//! The hash chain over the audit log of an organization.
//!
//! Each row that is sealed gets a position, from 1 without gaps, and a hash: SHA-256 of the hash before it (32 zero bytes at the
//! first) and of the row as canonical JSON (sorted keys, no spaces) with its position. A row that is edited does not fit its
//! hash, one that is taken away leaves a gap, and rows that change places fit neither. Whoever can write the database as its
//! owner could make a new chain: keep the hash that an export ends with elsewhere, and compare.
//!
//! Rows are sealed by a job some seconds after they were written, and before every export and check.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::db::{Conn, Db, SystemTx};
use crate::error::Result;
use crate::hex::unhex;
use crate::id::{ApiKeyId, AuditLogId, OrganizationId, UserId};
use crate::json::canonical;
use crate::turns;

/// Rows that are in memory at once.
pub(super) const PAGE: i64 = 1000;
/// A class of advisory locks, for sealing: one at a time for each organization.
const LOCK_CLASS: i32 = 0x5EA1;

/// A hash of the chain.
pub type Hash = [u8; 32];

/// What stands before the first row.
pub const BEGINNING: Hash = [0; 32];

/// A row of the log.
#[derive(Debug)]
pub(super) struct LogRow {
    pub id: AuditLogId,
    pub organization_id: OrganizationId,
    pub user_id: Option<UserId>,
    pub api_key_id: Option<ApiKeyId>,
    pub impersonator: Option<String>,
    pub action: String,
    pub resource_type: String,
    pub resource_id: Option<Uuid>,
    pub metadata: Value,
    pub ip_address: Option<String>,
    pub request_id: Option<String>,
    pub created_at: DateTime<Utc>,
}

impl LogRow {
    /// The row as an export has it, without its hashes. Nothing in it changes later: ids, and no names.
    pub(super) fn json(&self, position: i64) -> Value {
        json!({
            "position": position,
            "id": self.id.to_string(),
            "at": self.created_at.to_rfc3339_opts(SecondsFormat::Micros, true),
            "organization": self.organization_id.to_string(),
            "user": self.user_id.map(|id| id.to_string()),
            "apiKey": self.api_key_id.map(|id| id.to_string()),
            "impersonator": self.impersonator,
            "action": self.action,
            "resourceType": self.resource_type,
            "resourceId": self.resource_id,
            "metadata": self.metadata,
            "ip": self.ip_address,
            "requestId": self.request_id,
        })
    }
}

/// The hash of a row, given what stands before it.
#[must_use]
pub fn link(before: &Hash, row: &Value) -> Hash {
    Sha256::new().chain_update(before).chain_update(canonical(row)).finalize().into()
}

/// Seals what was written of an organization so far; says how many rows.
///
/// # Errors
/// When the database cannot be reached.
pub async fn seal(db: &Db, organization: OrganizationId) -> Result<u64> {
    let mut sealed = 0;
    loop {
        let mut tx = SystemTx::begin(db).await?;
        let some = seal_some(&mut tx, organization).await?;
        tx.commit().await?;
        sealed += some;
        if i64::try_from(some).is_ok_and(|some| some < PAGE) {
            return Ok(sealed);
        }
    }
}

async fn seal_some(tx: &mut SystemTx, organization: OrganizationId) -> Result<u64> {
    sqlx::query!("select pg_advisory_xact_lock($1, hashtext($2))", LOCK_CLASS, organization.to_string())
        .execute(tx.conn())
        .await?;
    let (mut position, mut before) = head(tx, organization).await?;
    let rows = sqlx::query_as!(
        LogRow,
        // The page first, then each of its rows by its key: a join would be planned by what the tables held when the plan was
        // made, and then reads the whole log of the organization for every page.
        r#"select a.id as "id: AuditLogId", a.organization_id as "organization_id: OrganizationId", a.user_id as "user_id: UserId",
                  a.api_key_id as "api_key_id: ApiKeyId", a.impersonator, a.action, a.resource_type, a.resource_id, a.metadata,
                  host(a.ip_address) as ip_address, a.request_id, a.created_at
             from (select q.created_at, q.audit_log_id from tenantry.audit_unsealed q
                    where q.organization_id = $1 order by q.created_at, q.audit_log_id limit $2) q
            cross join lateral (select a.* from tenantry.audit_logs a
                                 where a.organization_id = $1 and a.created_at = q.created_at and a.id = q.audit_log_id limit 1) a
            order by a.created_at, a.id"#,
        organization as _,
        PAGE
    )
    .fetch_all(tx.conn())
    .await?;
    let (mut positions, mut ids, mut times, mut hashes) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for row in &rows {
        position += 1;
        before = link(&before, &row.json(position));
        positions.push(position);
        ids.push(row.id.uuid());
        times.push(row.created_at);
        hashes.push(before.to_vec());
    }
    sqlx::query!(
        "with sealed as (
           insert into tenantry.audit_seals (organization_id, position, audit_log_id, audit_created_at, hash)
           select $1, * from unnest($2::bigint[], $3::uuid[], $4::timestamptz[], $5::bytea[]))
         delete from tenantry.audit_unsealed q using unnest($3::uuid[], $4::timestamptz[]) as s (id, at)
          where q.organization_id = $1 and q.created_at = s.at and q.audit_log_id = s.id",
        organization as _,
        &positions,
        &ids,
        &times,
        &hashes
    )
    .execute(tx.conn())
    .await?;
    Ok(rows.len() as u64)
}

/// The last position of a chain and its hash.
async fn head(tx: &mut SystemTx, organization: OrganizationId) -> Result<(i64, Hash)> {
    let head = sqlx::query!(
        "select position, hash from tenantry.audit_seals where organization_id = $1 order by position desc limit 1",
        organization as _
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(head.map_or((0, BEGINNING), |head| (head.position, head.hash.try_into().unwrap_or(BEGINNING))))
}

/// The job: seals what was written of all organizations; says how many rows.
///
/// # Errors
/// As [`turns::by_organization`].
pub async fn seal_due(db: &Db) -> Result<u64> {
    turns::by_organization(
        db,
        "audit-seal",
        |tx, after| Box::pin(waiting(tx, after)),
        |organization| async move {
            let mut tx = SystemTx::begin(db).await?;
            let some = seal_some(&mut tx, organization).await?;
            tx.commit().await?;
            Ok(some)
        },
    )
    .await
}

/// Seals all that was written of all organizations, however much it is; says how many rows.
///
/// # Errors
/// When the database cannot be reached.
pub async fn seal_all(db: &Db) -> Result<u64> {
    let (mut sealed, mut last) = (0, OrganizationId::NIL);
    loop {
        let mut tx = SystemTx::begin(db).await?;
        let organizations = waiting(&mut tx, last).await?;
        tx.rollback().await?;
        let Some(next) = organizations.last() else { return Ok(sealed) };
        last = *next;
        for organization in organizations {
            sealed += seal(db, organization).await?;
        }
    }
}

/// Whose rows are not sealed yet, in the order of their ids, after this one.
async fn waiting(tx: &mut SystemTx, after: OrganizationId) -> Result<Vec<OrganizationId>> {
    Ok(sqlx::query_scalar!(
        r#"select distinct organization_id as "id: OrganizationId" from tenantry.audit_unsealed
            where organization_id > $1 order by 1 limit $2"#,
        after as _,
        turns::PAGE
    )
    .fetch_all(tx.conn())
    .await?)
}

/// What is wrong with the chains of this database: of which organization, and what. At most a hundred of each organization.
///
/// # Errors
/// When the database cannot be reached.
pub async fn check(db: &Db) -> Result<Vec<(String, String)>> {
    seal_all(db).await?;
    let mut tx = SystemTx::begin(db).await?;
    // A row that was never queued was written past the trigger.
    let mut findings: Vec<(String, String)> = sqlx::query!(
        r#"select o.slug, count(*) as "count!", min(a.id::text) as "id!" from tenantry.audit_logs a join tenantry.organizations o on o.id = a.organization_id
            where not exists (select from tenantry.audit_seals s where s.organization_id = a.organization_id and s.audit_log_id = a.id)
              and not exists (select from tenantry.audit_unsealed q where q.organization_id = a.organization_id and q.created_at = a.created_at and q.audit_log_id = a.id)
            group by 1 order by 1"#
    )
    .fetch_all(tx.conn())
    .await?
    .into_iter()
    .map(|row| (row.slug, format!("{} rows of the audit log are outside of its chain, for example {}", row.count, row.id)))
    .collect();
    let early = sqlx::query!(
        r#"select o.slug, h.kept_from from tenantry.audit_horizons h join tenantry.organizations o on o.id = h.organization_id
             left join tenantry.audit_seals s on s.organization_id = h.organization_id and s.position = h.kept_from - 1
            where s.position is null or s.audit_created_at > now() - interval '29 days' order by 1"#
    )
    .fetch_all(tx.conn())
    .await?;
    findings.extend(early.into_iter().map(|row| {
        (row.slug, format!("the log is said to be kept from place {} on, which no retention says", row.kept_from))
    }));
    let organizations = sqlx::query!(
        r#"select o.id as "id: OrganizationId", o.slug from tenantry.organizations o
            where exists (select from tenantry.audit_seals s where s.organization_id = o.id) order by o.slug"#
    )
    .fetch_all(tx.conn())
    .await?;
    for organization in organizations {
        let mut walk = Walk::default();
        loop {
            let page = page(tx.conn(), organization.id, walk.position, (None, None)).await?;
            let is_last = i64::try_from(page.len()).is_ok_and(|rows| rows < PAGE);
            for sealed in page {
                walk.step_in_database(sealed);
            }
            if is_last {
                break;
            }
        }
        findings.extend(walk.findings.into_iter().map(|finding| (organization.slug.clone(), finding)));
    }
    Ok(findings)
}

/// A place of the chain, with its row if that is there.
#[derive(Debug)]
pub(super) struct Sealed {
    pub position: i64,
    pub hash: Vec<u8>,
    pub row: Option<LogRow>,
    /// Of a month that was dropped as a whole, or past its retention.
    pub is_dropped: bool,
}

/// The places after a position, and between two times.
pub(super) async fn page(
    conn: &mut Conn,
    organization: OrganizationId,
    after: i64,
    (since, until): (Option<DateTime<Utc>>, Option<DateTime<Utc>>),
) -> Result<Vec<Sealed>> {
    let rows = sqlx::query!(
        r#"select s.position, s.hash, s.audit_log_id as "id: AuditLogId", s.audit_created_at,
                  a.user_id as "user_id?: UserId", a.api_key_id as "api_key_id?: ApiKeyId", a.impersonator as "impersonator?",
                  a.action as "action?", a.resource_type as "resource_type?", a.resource_id as "resource_id?", a.metadata as "metadata?",
                  host(a.ip_address) as "ip_address?", a.request_id as "request_id?",
                  a.id is null and (coalesce(s.position < (select h.kept_from from tenantry.audit_horizons h where h.organization_id = s.organization_id), false)
                    or to_regclass('tenantry.audit_logs_' || to_char(s.audit_created_at at time zone 'UTC', 'YYYY_MM')) is null
                    and s.audit_created_at < (select min(x.created_at) from tenantry.audit_logs x where x.organization_id = s.organization_id)) as "is_dropped!"
             from tenantry.audit_seals s
             left join tenantry.audit_logs a
               on a.organization_id = s.organization_id and a.created_at = s.audit_created_at and a.id = s.audit_log_id
            where s.organization_id = $1 and s.position > $2
              and ($3::timestamptz is null or s.audit_created_at >= $3) and ($4::timestamptz is null or s.audit_created_at < $4)
            order by s.position limit $5"#,
        organization as _,
        after,
        since,
        until,
        PAGE
    )
    .fetch_all(conn)
    .await?;
    let sealed = rows.into_iter().map(|row| {
        let log_row =
            row.action.zip(row.resource_type).zip(row.metadata).map(|((action, resource_type), metadata)| LogRow {
                id: row.id,
                organization_id: organization,
                user_id: row.user_id,
                api_key_id: row.api_key_id,
                impersonator: row.impersonator,
                action,
                resource_type,
                resource_id: row.resource_id,
                metadata,
                ip_address: row.ip_address,
                request_id: row.request_id,
                created_at: row.audit_created_at,
            });
        Sealed { position: row.position, hash: row.hash, row: log_row, is_dropped: row.is_dropped }
    });
    Ok(sealed.collect())
}

/// A walk along a chain, which notes what does not fit.
#[derive(Debug, Default)]
pub struct Walk {
    /// The last position.
    pub position: i64,
    /// Its hash; before the first step, what stands before the first row.
    pub hash: Hash,
    /// How many rows were walked.
    pub rows: u64,
    /// What was found; at most a hundred.
    pub findings: Vec<String>,
}

impl Walk {
    fn find(&mut self, finding: String) {
        if self.findings.len() < 100 {
            self.findings.push(finding);
        }
    }

    fn step_in_database(&mut self, sealed: Sealed) {
        let Sealed { position, hash, row, is_dropped } = sealed;
        if position != self.position + 1 {
            self.find(format!("places {} to {} of the chain are missing", self.position + 1, position - 1));
        } else if let Some(row) = &row
            && link(&self.hash, &row.json(position)).as_slice() != hash
        {
            self.find(format!("row {} at place {position} is not as it was sealed, or the one before it", row.id));
        }
        if row.is_none() && !is_dropped {
            self.find(format!("the row at place {position} was taken away"));
        }
        self.step(position, hash.try_into().unwrap_or(BEGINNING));
    }

    fn step(&mut self, position: i64, hash: Hash) {
        self.position = position;
        self.hash = hash;
        self.rows += 1;
    }

    /// Takes a line of an export.
    pub fn step_in_file(&mut self, number: u64, line: &str) {
        let Ok(Value::Object(mut row)) = serde_json::from_str::<Value>(line) else {
            return self.find(format!("line {number} is no JSON object"));
        };
        let hashes = [row.remove("previous"), row.remove("hash")];
        let [previous, hash] = hashes.map(|text| text.as_ref().and_then(Value::as_str).and_then(unhex));
        let position = row.get("position").and_then(Value::as_i64);
        let (Some(previous), Some(hash), Some(position)) = (previous, hash, position) else {
            return self.find(format!("line {number} has no position, previous and hash: it is no line of an export"));
        };
        // An export may begin anywhere.
        if self.rows > 0 && position != self.position + 1 {
            self.find(format!(
                "line {number} has place {position} after {}: rows are missing or have changed places",
                self.position
            ));
        } else if self.rows > 0 && previous != self.hash {
            self.find(format!("line {number} follows another row than the one before it"));
        } else if self.rows == 0 && position == 1 && previous != BEGINNING {
            self.find(format!("line {number} is the first of its chain, and something stands before it"));
        }
        if link(&previous, &Value::Object(row)) != hash {
            self.find(format!("line {number} (place {position}) is not as it was sealed"));
        }
        self.step(position, hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hex::hex;

    fn lines(count: i64) -> Vec<String> {
        let mut before = BEGINNING;
        let lines = (1..=count).map(|position| {
            let row = json!({ "position": position, "action": format!("a.{position}"), "metadata": { "b": 1.5, "a": "ü\"" } });
            let hash = link(&before, &row);
            let mut line = row;
            line["previous"] = hex(&before).into();
            line["hash"] = hex(&hash).into();
            before = hash;
            line.to_string()
        });
        lines.collect()
    }

    fn findings(lines: &[String]) -> usize {
        let mut walk = Walk::default();
        for (number, line) in (1..).zip(lines) {
            walk.step_in_file(number, line);
        }
        walk.findings.len()
    }

    #[test]
    fn an_export_that_nobody_touched_is_whole_wherever_it_begins() {
        let whole = lines(9);
        assert_eq!(findings(&whole), 0);
        assert_eq!(findings(&whole[3..]), 0);
        assert_eq!(findings(&[]), 0);
    }

    #[test]
    fn edited_removed_and_moved_rows_are_found() {
        let whole = lines(9);
        for place in 0..9 {
            let mut edited = whole.clone();
            edited[place] = edited[place].replace("\"a.", "\"b.");
            assert!(findings(&edited) > 0, "edited {place}");
            // With a hash that fits the edited row, the next one does not follow.
            let mut row: Value = serde_json::from_str(&edited[place]).expect("JSON");
            let previous = unhex(row["previous"].as_str().expect("a hash")).expect("a hash");
            let mut bare = row.clone();
            bare.as_object_mut().expect("an object").retain(|key, _| key != "previous" && key != "hash");
            row["hash"] = hex(&link(&previous, &bare)).into();
            edited[place] = row.to_string();
            assert_eq!(findings(&edited) > 0, place < 8, "edited with its hash {place}");
            if (1..8).contains(&place) {
                let mut removed = whole.clone();
                removed.remove(place);
                assert!(findings(&removed) > 0, "removed {place}");
            }
            if place > 0 {
                let mut moved = whole.clone();
                moved.swap(place, place - 1);
                assert!(findings(&moved) > 0, "moved {place}");
                let mut twice = whole.clone();
                twice.insert(place, whole[place].clone());
                assert!(findings(&twice) > 0, "twice {place}");
            }
        }
        assert_eq!(findings(&["{".to_owned()]), 1);
        assert_eq!(findings(&["{}".to_owned()]), 1);
        assert_eq!(unhex("zz"), None);
        assert_eq!(unhex(&hex(&BEGINNING)), Some(BEGINNING));
    }
}
