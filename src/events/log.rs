//! Reads `tenantry.event_log`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::Event;
use super::position::{Position, Snapshot};
use crate::db::{Db, SystemTx};
use crate::error::{Error, Result};
use crate::id::OrganizationId;

/// Events of one look from which on they are not told one by one.
pub(super) const MANY: i64 = 20_000;
/// How long events are kept.
pub const KEPT: Duration = Duration::from_hours(1);

/// A row of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) transaction: i64,
    pub(super) id: i64,
    pub(super) event: Event,
}

/// What became visible of an organization's events between two looks.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// In the order of their ids.
    pub(super) entries: Vec<Entry>,
    /// How far that reaches.
    pub(super) after: Arc<Position>,
    /// Whether nothing is missing between.
    pub(super) is_whole: bool,
}

/// What is new of each organization since its position. `again`: the server may be another one than before.
///
/// # Errors
/// When the database cannot be reached.
pub(super) async fn since(
    db: &Db,
    known: &[(OrganizationId, Arc<Position>)],
    again: bool,
) -> Result<HashMap<OrganizationId, Seen>> {
    let (mut organizations, mut newest, mut of, mut open) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (organization, position) in known {
        organizations.push(organization.uuid());
        newest.push(position.newest);
        for transaction in &position.open {
            of.push(organization.uuid());
            open.push(*transaction);
        }
    }
    let mut tx = SystemTx::begin(db).await?;
    // Before what is new: what is there now was there then.
    let anchored = if again { anchored(&mut tx, &organizations, &newest).await? } else { organizations.clone() };
    // One statement: what it sees, and what it does not see yet, are of one snapshot. The limits inside keep each organization a
    // look into the index, whatever the planner expects of the table.
    let rows = sqlx::query!(
        r#"select pg_current_snapshot()::text as "snapshot!",
                  (select m.oldest::text::bigint from tenantry.event_marks m where m.at <= clock_timestamp() - make_interval(secs => $6)
                    order by m.at limit 1) as kept_from,
                  n.organization_id as "organization_id?", n.transaction::text::bigint as transaction, n.id as "id?", n.topic as "topic?",
                  n.row_id as "row_id?"
             from (select) one
             left join (
                  (select e.* from unnest($1::uuid[], $2::bigint[]) as k (organization_id, newest)
                    cross join lateral (select l.* from tenantry.event_log l
                                         where l.organization_id = k.organization_id and l.transaction > k.newest::text::xid8
                                         order by l.transaction limit $5) e
                    limit $5)
                  union all
                  (select e.* from unnest($3::uuid[], $4::bigint[]) as k (organization_id, open)
                    cross join lateral (select l.* from tenantry.event_log l
                                         where l.organization_id = k.organization_id and l.transaction = k.open::text::xid8
                                         order by l.id limit $5) e
                    limit $5)) n on true
            order by n.id"#,
        &organizations,
        &newest,
        &of,
        &open,
        MANY,
        KEPT.as_secs_f64()
    )
    .fetch_all(tx.conn())
    .await?;
    tx.rollback().await?;
    let Some(first) = rows.first() else { return Err(Error::internal("a look at the log of events gave no row")) };
    let snapshot = Snapshot::parse(&first.snapshot)?;
    let kept_from = first.kept_from.unwrap_or_default();
    let is_too_much = i64::try_from(rows.len()).is_ok_and(|rows| rows >= MANY);
    let mut entries: HashMap<Uuid, Vec<Entry>> = HashMap::new();
    for row in rows {
        let (Some(organization), Some(transaction), Some(id), Some(topic), Some(row_id)) =
            (row.organization_id, row.transaction, row.id, row.topic, row.row_id)
        else {
            continue;
        };
        let event = Event { topic: topic.into(), id: row_id };
        entries.entry(organization).or_default().push(Entry { transaction, id, event });
    }
    let seen = known.iter().map(|(organization, position)| {
        let entries = entries.remove(&organization.uuid()).unwrap_or_default();
        let newest = entries.iter().map(|entry| entry.transaction).fold(position.newest, i64::max);
        let is_anchored = position.newest < kept_from || anchored.contains(&organization.uuid());
        let is_whole = !is_too_much && position.floor >= kept_from && is_anchored;
        (*organization, Seen { entries, after: Arc::new(Position::after(newest, &snapshot)), is_whole })
    });
    Ok(seen.collect())
}

/// Those whose newest transaction is there. It is not on a server that took over without what was committed last.
async fn anchored(tx: &mut SystemTx, organizations: &[Uuid], newest: &[i64]) -> Result<Vec<Uuid>> {
    Ok(sqlx::query_scalar!(
        r#"select k.organization_id as "organization_id!" from unnest($1::uuid[], $2::bigint[]) as k (organization_id, newest)
            where k.newest = 0
               or exists (select from tenantry.event_log l
                           where l.organization_id = k.organization_id and l.transaction = k.newest::text::xid8)"#,
        organizations,
        newest
    )
    .fetch_all(tx.conn())
    .await?)
}

/// Where each of these organizations stands now: whoever begins here hears what becomes visible later.
///
/// # Errors
/// When the database cannot be reached.
pub(super) async fn beginnings(
    db: &Db,
    organizations: &[OrganizationId],
) -> Result<HashMap<OrganizationId, Arc<Position>>> {
    let ids: Vec<Uuid> = organizations.iter().map(|id| id.uuid()).collect();
    let mut tx = SystemTx::begin(db).await?;
    let rows = sqlx::query!(
        r#"select k.id as "id!", pg_current_snapshot()::text as "snapshot!",
                  (select l.transaction::text::bigint from tenantry.event_log l where l.organization_id = k.id
                    order by l.transaction desc limit 1) as newest
             from unnest($1::uuid[]) as k (id)"#,
        &ids
    )
    .fetch_all(tx.conn())
    .await?;
    tx.rollback().await?;
    let begin = |row: (Uuid, String, Option<i64>)| {
        let position = Position::after(row.2.unwrap_or_default(), &Snapshot::parse(&row.1)?);
        Ok((OrganizationId::from_uuid(row.0), Arc::new(position)))
    };
    rows.into_iter().map(|row| begin((row.id, row.snapshot, row.newest))).collect()
}

/// Removes events that everybody could have heard for [`KEPT`], and remembers what has ended by now; says how many.
///
/// # Errors
/// When the database cannot be reached.
pub async fn forget(db: &Db) -> Result<u64> {
    let mut tx = SystemTx::begin(db).await?;
    // The mark goes first: whoever looks between finds it, and the rows gone or not.
    sqlx::query!(
        "with old as (select max(m.at) as at from tenantry.event_marks m where m.at <= clock_timestamp() - make_interval(secs => $1)),
              gone as (delete from tenantry.event_marks m using old where m.at < old.at)
         insert into tenantry.event_marks (at, oldest) values (clock_timestamp(), pg_snapshot_xmin(pg_current_snapshot()))",
        KEPT.as_secs_f64()
    )
    .execute(tx.conn())
    .await?;
    tx.commit().await?;
    let mut tx = SystemTx::begin(db).await?;
    let removed = sqlx::query!(
        "delete from tenantry.event_log l using (select m.at, m.oldest from tenantry.event_marks m order by m.at limit 1) m
          where m.at <= clock_timestamp() - make_interval(secs => $1) and l.transaction < m.oldest",
        KEPT.as_secs_f64()
    )
    .execute(tx.conn())
    .await?
    .rows_affected();
    tx.commit().await?;
    Ok(removed)
}
