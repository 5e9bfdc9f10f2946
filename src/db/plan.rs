//! The plan of a statement, without its values.

use futures_util::future::{BoxFuture, FutureExt as _};
use tokio_postgres::SimpleQueryMessage;

use super::{Db, Lane, StatementText};
use crate::error::Result;
use crate::sql_text::quote;

impl Db {
    /// How `PostgreSQL` would do it: the generic plan, which is the one that the API's sessions use (`plan_cache_mode`).
    ///
    /// The statement is prepared and not run, as the role that row-level security binds and outside of every tenant. Its
    /// parameters are null; the plan shows them as `$1`. (`EXPLAIN (GENERIC_PLAN)` is of version 16; this is good for 15, too.)
    ///
    /// # Errors
    /// As the database gives them; [`crate::error::Error::Unavailable`] when no connection is to be had in time.
    pub async fn explain(&self, statement: &StatementText) -> Result<String> {
        let explain = &explain_statements(statement);
        self.readers()
            .on_living(Lane::House, |taken| -> BoxFuture<'_, _> {
                async move {
                    let messages = taken.connection().client().simple_query(explain).await?;
                    taken.give_back(true);
                    let rows = messages.iter().filter_map(|message| match message {
                        SimpleQueryMessage::Row(row) => row.get(0),
                        _ => None,
                    });
                    Ok(rows.collect::<Vec<_>>().join("\n"))
                }
                .boxed()
            })
            .await
    }
}

/// One message: a session behind a pooler is kept for a transaction only.
fn explain_statements(StatementText { sql, types }: &StatementText) -> String {
    let names = types.iter().map(|of| format!("{}.{}", quote(of.schema()), quote(of.name())));
    let (types, nulls) = (names.collect::<Vec<_>>().join(", "), vec!["null"; types.len()].join(", "));
    let (types, nulls) = if nulls.is_empty() { (types, nulls) } else { (format!("({types})"), format!("({nulls})")) };
    format!(
        "begin read only; set local plan_cache_mode = force_generic_plan; set local statement_timeout = '2s'; \
         prepare tenantry_plan{types} as {sql}; explain execute tenantry_plan{nulls}; deallocate tenantry_plan; rollback"
    )
}
