//! Sample data to try the product with, and any number of organizations to measure it with.
//!
//! Invariants: the sample data is written once and as a whole; what the rows say about each other agrees (totals of
//! budgets with their records, counters with ticket numbers, figures with the rows they count); no secret in it works.

mod billing;
mod escalations;
mod help_desk;
mod people;
mod platform;
mod refunds;
mod scale;
mod service_levels;
mod support;
mod tech_startup;

use std::collections::BTreeMap;
use std::fmt;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::postgres::{PgArguments, Postgres};
use sqlx::query::Query;
use uuid::Uuid;

pub use scale::{Scale, scale};

use crate::auth::Persona;
use crate::clock::Clock;
use crate::db::{Db, SystemTx};
use crate::error::Result;
use crate::id::Id;

const ALICE: Persona = Persona {
    email: "alice@example.com",
    name: "Alice Johnson",
    subject: "user_alice",
    description: "Owner of Acme Corp",
};
const BOB: Persona = Persona {
    email: "bob@example.com",
    name: "Bob Smith",
    subject: "user_bob",
    description: "Owner of Tech Startup Inc, viewer of Acme Corp",
};
const ADMIN: Persona = Persona {
    email: "admin@example.com",
    name: "Platform Admin",
    subject: "user_admin",
    description: "Superadmin of the platform, member of no organization",
};

/// The users of the sample data to sign in as.
pub const PERSONAS: &[Persona] = &[ALICE, BOB, ADMIN];

/// What [`sample_data`] did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Seeded {
    /// Nothing: the organization `acme-corp` exists.
    AlreadyThere,
    /// It wrote these.
    Created {
        /// Rows by table.
        counts: BTreeMap<&'static str, u64>,
    },
}

impl fmt::Display for Seeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlreadyThere => f.write_str("The sample data is already there; nothing was changed."),
            Self::Created { counts } => {
                write!(f, "Wrote the sample data: {} rows in {} tables.", counts.values().sum::<u64>(), counts.len())?;
                counts.iter().try_for_each(|(table, rows)| write!(f, "\n  {rows:>3} {table}"))
            }
        }
    }
}

/// Whether there is no organization at all.
pub async fn is_empty(db: &Db) -> Result<bool> {
    let mut tx = SystemTx::begin(db).await?;
    Ok(sqlx::query_scalar("select not exists (select from tenantry.organizations)").fetch_one(tx.conn()).await?)
}

/// Writes the sample data, unless the organization `acme-corp` exists.
pub async fn sample_data(db: &Db, clock: &Clock) -> Result<Seeded> {
    let mut tx = SystemTx::begin(db).await?;
    lock(&mut tx).await?;
    if organization_exists(&mut tx, "acme-corp").await? {
        return Ok(Seeded::AlreadyThere);
    }
    let mut w = Writer { tx, clock, now: clock.now(), counts: BTreeMap::new() };

    platform::flag_definitions(&mut w).await?;
    let acme = people::organization(&mut w, &people::ACME).await?;
    let startup = people::organization(&mut w, &people::TECH_STARTUP).await?;
    let people = people::users(&mut w, acme, startup).await?;
    people::members(&mut w, acme, startup, &people).await?;
    people::access(&mut w, acme, &people).await?;

    let desk = support::desk(&mut w, acme, &people).await?;
    support::tickets(&mut w, acme, &desk).await?;
    support::messages(&mut w, acme, &people, &desk).await?;
    help_desk::rows(&mut w, acme, people.alice).await?;
    service_levels::rows(&mut w, acme).await?;
    support::escalations(&mut w, acme, &people, &desk).await?;
    escalations::rows(&mut w, acme, people.alice).await?;
    let rules = refunds::agents(&mut w, acme).await?;
    refunds::budget_and_refunds(&mut w, acme, &people, &desk, &rules).await?;
    platform::flag_override(&mut w, acme, "single-sign-on", true).await?;
    platform::webhook_events(&mut w, acme).await?;
    platform::audit_logs(&mut w, acme, &people, &desk).await?;
    billing::rows(&mut w, acme, people.alice).await?;
    platform::figures(&mut w, acme).await?;

    tech_startup::rows(&mut w, startup, &people).await?;
    help_desk::rows(&mut w, startup, people.bob).await?;
    service_levels::rows(&mut w, startup).await?;
    escalations::rows(&mut w, startup, people.bob).await?;
    platform::flag_override(&mut w, startup, "new-inbox", false).await?;
    billing::rows(&mut w, startup, people.bob).await?;
    platform::figures(&mut w, startup).await?;

    let Writer { tx, counts, .. } = w;
    tx.commit().await?;
    Ok(Seeded::Created { counts })
}

/// One seeder at a time; until the transaction ends.
async fn lock(tx: &mut SystemTx) -> Result<()> {
    sqlx::query("select pg_advisory_xact_lock(hashtext('tenantry.seed'))").execute(tx.conn()).await?;
    Ok(())
}

async fn organization_exists(tx: &mut SystemTx, slug: &str) -> Result<bool> {
    let found = sqlx::query_scalar("select exists (select from tenantry.organizations where slug = $1)").bind(slug);
    Ok(found.fetch_one(tx.conn()).await?)
}

/// The transaction of the sample data and what was written in it.
struct Writer<'a> {
    tx: SystemTx,
    clock: &'a Clock,
    now: DateTime<Utc>,
    counts: BTreeMap<&'static str, u64>,
}

impl Writer<'_> {
    fn id(&self) -> Uuid {
        Id::<()>::new(self.clock).uuid()
    }

    fn ids<const N: usize>(&self) -> [Uuid; N] {
        std::array::from_fn(|_| self.id())
    }

    /// Executes an insert and counts its rows.
    async fn insert(&mut self, table: &'static str, query: Query<'_, Postgres, PgArguments>) -> Result<()> {
        let rows = query.execute(self.tx.conn()).await?.rows_affected();
        *self.counts.entry(table).or_default() += rows;
        Ok(())
    }
}

/// Totals of the budgets of an organization, from their records.
async fn total_budgets(tx: &mut SystemTx, organization: Uuid) -> Result<()> {
    sqlx::query(
        "update tenantry.budgets b
            set spent_minor = u.spent, reserved_minor = u.reserved
           from (select u.budget_id,
                        coalesce(sum(case u.kind when 'RETURN' then -u.amount_minor else u.amount_minor end) filter (where u.kind in ('SPEND', 'SETTLE', 'RETURN')), 0) as spent,
                        coalesce(sum(r.amount_minor) filter (where u.kind = 'RESERVE' and r.status = 'OPEN'), 0) as reserved
                   from tenantry.budget_usage_records u
                   left join tenantry.budget_reservations r on r.organization_id = $1 and r.id = u.reservation_id
                  where u.organization_id = $1
                  group by u.budget_id) u
          where b.organization_id = $1 and b.id = u.budget_id",
    )
    .bind(organization)
    .execute(tx.conn())
    .await?;
    Ok(())
}
