//! How a job goes over all organizations: each has turns of its own, of a bounded number of rows and a bounded number in each
//! run. One with very many rows, or one that fails, delays no other.

use futures_util::future::BoxFuture;

use crate::db::{Db, SystemTx};
use crate::error::Result;
use crate::id::OrganizationId;

/// Turns of one organization in one run.
const TURNS: usize = 20;
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
    let (mut last, mut done, mut failed) = (OrganizationId::NIL, 0, None);
    loop {
        let mut tx = SystemTx::begin(db).await?;
        let organizations = due(&mut tx, last).await?;
        tx.rollback().await?;
        let Some(next) = organizations.last() else { return failed.map_or(Ok(done), Err) };
        last = *next;
        for organization in organizations {
            for _ in 0..TURNS {
                match turn(organization).await {
                    Ok(0) => break,
                    Ok(changed) => done += changed,
                    Err(error) => {
                        tracing::warn!(job, %organization, %error, cause = ?error, "an organization could not be looked after");
                        failed = Some(error);
                        break;
                    }
                }
            }
        }
    }
}
