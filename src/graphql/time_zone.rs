//! Names of time zones.

use std::collections::HashSet;
use std::sync::{LazyLock, Mutex, PoisonError};

use crate::db::{Bind, Reading, TenantTx};
use crate::error::Result;

/// What is said of a name that is none.
pub const NO_SUCH: &str =
    "There is no such time zone: `timeZone` takes `UTC` or a name of the IANA database such as `Europe/Berlin`.";
/// Whether `PostgreSQL` knows `$1` by its full name. Abbreviations and rules such as `EST5EDT4` are none.
const KNOWN: &str =
    "select exists (select from pg_timezone_names where name = $1 and (name = 'UTC' or name ~ '^[A-Z][A-Za-z]+/'))";

/// Names that were found: a look reads the files of all zones, and there are some hundred names.
static FOUND: LazyLock<Mutex<HashSet<String>>> = LazyLock::new(Mutex::default);

fn was_found(name: &str) -> bool {
    FOUND.lock().unwrap_or_else(PoisonError::into_inner).contains(name)
}

fn remember(name: &str, is_known: bool) -> bool {
    if is_known {
        FOUND.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
    }
    is_known
}

/// Whether this is the name of a time zone, in a transaction that writes.
///
/// # Errors
/// When the database cannot be reached.
pub async fn is_known(tx: &mut TenantTx, name: &str) -> Result<bool> {
    if was_found(name) {
        return Ok(true);
    }
    let is_known = sqlx::query_scalar(KNOWN).bind(name).fetch_one(tx.conn()).await?;
    Ok(remember(name, is_known))
}

/// The same in a transaction that reads.
///
/// # Errors
/// When the database cannot be reached.
pub async fn is_known_to_reader(tx: &TenantTx<Reading>, name: &str) -> Result<bool> {
    if was_found(name) {
        return Ok(true);
    }
    let rows = tx.fetch(KNOWN, &[Bind::Text(name.to_owned())]).await?;
    let is_known = match rows.first() {
        Some(row) => row.try_get(0)?,
        None => false,
    };
    Ok(remember(name, is_known))
}
