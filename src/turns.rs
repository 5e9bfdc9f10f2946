//! How a job goes over all organizations: in rounds. In a round each organization that has something to do gets one turn, of a
//! bounded number of rows in a transaction of its own; then who still has something gets the next. So one with very many rows
//! delays another by one turn at most, also another whose rows come due meanwhile, and one that fails delays none.

use std::collections::HashSet;

use futures_util::future::BoxFuture;

use crate::db::{Db, SystemTx};
use crate::error::Result;
use crate::id::OrganizationId;

/// Rounds of one run. The next run goes on.
const ROUNDS: usize = 20;
/// Organizations that are looked up at once: what `due` answers at most.
pub const PAGE: i64 = 500;

/// Gives every organization its turns, and says how many rows they changed. `due` answers those that have something to do, in the
/// order of their ids, after the given one; `turn` does some of it, in a transaction of its own, and answers how many rows that
/// were: none when it is done. `job` is what logs call it.
///
/// # Errors
/// The last one of a turn, after all had theirs; when the database cannot be reached.
pub async fn by_organization<T>(
    db: &Db,
    job: &'static str,
    due: impl for<'a> Fn(&'a mut SystemTx, OrganizationId) -> BoxFuture<'a, Result<Vec<OrganizationId>>>,
    turn: impl Fn(OrganizationId) -> T,
) -> Result<u64>
where
    T: Future<Output = Result<u64>>,
{
    let (mut all, mut failed, mut over) = (0, None, HashSet::new());
    for _ in 0..ROUNDS {
        let (mut last, mut changed) = (OrganizationId::NIL, 0);
        loop {
            let mut tx = SystemTx::begin(db).await?;
            let organizations = due(&mut tx, last).await?;
            tx.rollback().await?;
            let Some(next) = organizations.last() else { break };
            last = *next;
            for organization in organizations {
                if over.contains(&organization) {
                    continue;
                }
                match turn(organization).await {
                    Ok(0) => drop(over.insert(organization)),
                    Ok(rows) => changed += rows,
                    Err(error) => {
                        tracing::warn!(job, %organization, %error, cause = ?error, "an organization could not be looked after");
                        over.insert(organization);
                        failed = Some(error);
                    }
                }
            }
        }
        all += changed;
        if changed == 0 {
            break;
        }
    }
    failed.map_or(Ok(all), Err)
}
