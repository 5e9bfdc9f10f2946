//! What operators of the platform see across tenants.
//!
//! The one place of the API that opens a [`SystemTx`]. Whether the viewer is a superadmin is asked of the database in
//! that very transaction, and each use leaves a row in `platform_audit_logs`, or does not happen.

use std::sync::Arc;

use async_graphql::{Context, Object};
use serde_json::json;
use sqlx::postgres::PgArguments;
use sqlx::{Arguments as _, AssertSqlSafe, Row as _};
use uuid::Uuid;

use crate::db::SystemTx;
use crate::error::{Error, Result};
use crate::graphql::connection::{Connection, LEADING_PARAMETERS, Page, Plan, platform_connection};
use crate::graphql::listing::{Bind, Listed};
use crate::graphql::session::Session;
use crate::id::Id;
use crate::webhooks::{WebhookEvent, WebhookEventFilter, WebhookEventOrder};

/// Opens a transaction across tenants for a superadmin, with its audit row in it. The caller commits.
///
/// # Errors
/// [`Error::Forbidden`] for everybody else.
pub async fn open(session: &Session, action: &str, metadata: serde_json::Value) -> Result<SystemTx> {
    let app = session.app();
    let subject = session.identity()?.subject.clone();
    let mut tx = SystemTx::begin(&app.db).await?;
    let admitted = sqlx::query!(
        "insert into tenantry.platform_audit_logs (id, user_id, action, metadata, ip_address, request_id, created_at)
         select $1, u.id, $3, $4, $5::text::inet, $6, $7 from tenantry.users u
          where u.clerk_id = $2 and u.is_superadmin and u.deleted_at is null",
        Id::<()>::new(&app.clock) as _,
        subject,
        action,
        metadata,
        session.ip().map(|ip| ip.to_string()),
        session.request_id(),
        app.clock.now()
    )
    .execute(tx.conn())
    .await?;
    if admitted.rows_affected() == 1 {
        Ok(tx)
    } else {
        Err(Error::Forbidden { role: "USER".to_owned(), action: "PLATFORM".to_owned() })
    }
}

/// A page of a list over all organizations.
pub(crate) async fn page<E: Listed>(session: &Session, plan: &Plan) -> Result<Page<E>> {
    let metadata = json!({ "where": plan.condition, "limit": plan.limit });
    let mut tx = open(session, &format!("{}.list", E::TABLE_NAME), metadata).await?;
    let sql = format!(
        "select {} from {} t where {} and {} and {} order by {} limit {}",
        columns::<E>(),
        E::TABLE,
        E::LISTED_WHEN,
        plan.condition,
        plan.keyset.as_deref().unwrap_or("true"),
        plan.order,
        plan.limit + 1
    );
    let rows = sqlx::query_with(AssertSqlSafe(sql), arguments(&plan.binds)?).fetch_all(tx.conn()).await?;
    tx.commit().await?;
    let rows = rows.iter().map(|row| E::decode(row, 0).map(Arc::new)).collect::<sqlx::Result<Vec<_>>>()?;
    Ok(plan.cut(rows))
}

/// The columns as superadmins see them: of an event that failed, the cause.
fn columns<E: Listed>() -> String {
    E::COLUMNS.replace("t.last_error", "coalesce(t.cause, t.last_error)")
}

/// How many rows a list over all organizations has.
pub(crate) async fn count<E: Listed>(session: &Session, plan: &Plan) -> Result<i64> {
    let metadata = json!({ "where": plan.condition });
    let mut tx = open(session, &format!("{}.count", E::TABLE_NAME), metadata).await?;
    let sql = format!("select count(*) from {} t where {} and {}", E::TABLE, E::LISTED_WHEN, plan.condition);
    let row =
        sqlx::query_with(AssertSqlSafe(sql), arguments(&plan.binds[..plan.filter_binds])?).fetch_one(tx.conn()).await?;
    tx.commit().await?;
    Ok(row.try_get(0)?)
}

/// Plans count their parameters from behind the organization and the parents, which there are none of here.
fn arguments(binds: &[Bind]) -> Result<PgArguments> {
    let mut arguments = PgArguments::default();
    arguments.reserve(LEADING_PARAMETERS + binds.len(), 64);
    arguments.add(Uuid::nil()).map_err(Error::internal)?;
    arguments.add(Vec::<Uuid>::new()).map_err(Error::internal)?;
    for bind in binds {
        bind.add_to(&mut arguments)?;
    }
    Ok(arguments)
}

/// The root field of the slice.
#[derive(Debug, Default)]
pub struct PlatformQuery;

#[Object]
impl PlatformQuery {
    /// What spans organizations. For superadmins; every use is recorded.
    async fn platform(&self) -> Platform {
        Platform
    }
}

/// What spans organizations.
#[derive(Debug)]
pub struct Platform;

/// What spans organizations. For superadmins; every use is recorded.
#[Object]
impl Platform {
    /// The webhook events of all organizations, and those of none.
    async fn webhook_events(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Rows from the front of the list: 0 to 100; 50 when neither `first` nor `last` is given.")]
        first: Option<i64>,
        #[graphql(desc = "Only rows behind this cursor of the same list in the same order; goes with `first`.")]
        after: Option<String>,
        #[graphql(desc = "Rows from the end of the list: 0 to 100. Not together with `first`.")] last: Option<i64>,
        #[graphql(desc = "Only rows before this cursor of the same list in the same order; goes with `last`.")]
        before: Option<String>,
        #[graphql(name = "where", desc = "Only rows for which all of this holds.")] filter: Option<
            Box<WebhookEventFilter>,
        >,
        #[graphql(
            desc = "The order, most important first; at most 5 steps. Rows that are equal in all of them are ordered by id."
        )]
        order_by: Option<Vec<WebhookEventOrder>>,
    ) -> Result<Connection<WebhookEvent>> {
        // Boxed, as in `connections!`.
        Box::pin(platform_connection(ctx, (first, after, last, before), filter, order_by)).await
    }
}
