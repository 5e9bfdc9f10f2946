//! The batch functions behind the loaders: one statement for all keys that siblings asked for.
//!
//! Loaders live as long as one request: nothing that one tenant loaded is ever there for another.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, Weak};

use dataloader::BatchFn;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::{Arguments as _, AssertSqlSafe, Row as _};
use uuid::Uuid;

use crate::db::TenantTx;
use crate::error::{Error, Result};
use crate::graphql::connection::{LEADING_PARAMETERS, Page, Plan, Scope};
use crate::graphql::entity::Entity;
use crate::graphql::listing::{Bind, Listed};
use crate::graphql::session::Session;

/// A loader of the crate `dataloader` over one of the batch functions below.
pub type Loader<K, V, B> = dataloader::cached::Loader<K, Result<V>, B>;

/// Rows by id. An id of another tenant is like one that does not exist: row-level security hides it.
pub struct ById<E> {
    session: Weak<Session>,
    entity: PhantomData<fn() -> E>,
}

/// Pages of lists.
pub struct Pages<E> {
    session: Weak<Session>,
    entity: PhantomData<fn() -> E>,
}

/// Total counts of lists.
pub struct Counts<E> {
    session: Weak<Session>,
    entity: PhantomData<fn() -> E>,
}

macro_rules! new {
    ($($name:ident),+) => { $(
        impl<E> $name<E> {
            /// The batch function of this session's loader.
            #[must_use]
            pub fn new(session: Weak<Session>) -> Self {
                Self { session, entity: PhantomData }
            }
        }
    )+ };
}
new!(ById, Pages, Counts);

/// A list of one scope.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PageKey {
    /// Whose rows.
    pub scope: Scope,
    /// Which of them.
    pub plan: Arc<Plan>,
}

impl<E: Entity> BatchFn<Uuid, Result<Option<Arc<E>>>> for ById<E> {
    async fn load(&mut self, keys: &[Uuid]) -> HashMap<Uuid, Result<Option<Arc<E>>>> {
        match boxed(self.fetch(keys)).await {
            Ok(mut rows) => keys.iter().map(|key| (*key, Ok(rows.remove(key)))).collect(),
            Err(error) => keys.iter().map(|key| (*key, Err(error.clone()))).collect(),
        }
    }
}

impl<E: Entity> ById<E> {
    async fn fetch(&self, keys: &[Uuid]) -> Result<HashMap<Uuid, Arc<E>>> {
        let session = upgrade(&self.session)?;
        let mut tx = session.read().await?;
        let mut arguments = PgArguments::default();
        arguments.add(keys).map_err(Error::internal)?;
        let tenant = if E::TENANT {
            arguments.add(tx.tenant().organization_id).map_err(Error::internal)?;
            "t.organization_id = $2 and"
        } else {
            ""
        };
        let sql = format!(
            "select {} from {} t where {tenant} t.id = any($1) and {}",
            E::COLUMNS,
            E::TABLE,
            visible::<E>(&tx)
        );
        let rows = sqlx::query_with(AssertSqlSafe(sql), arguments).fetch_all(tx.conn()).await?;
        rows.iter().map(|row| E::decode(row, 0).map(|row| (row.uuid(), Arc::new(row))).map_err(Error::from)).collect()
    }
}

impl<E: Listed> BatchFn<PageKey, Result<Arc<Page<E>>>> for Pages<E> {
    async fn load(&mut self, keys: &[PageKey]) -> HashMap<PageKey, Result<Arc<Page<E>>>> {
        let mut result = HashMap::with_capacity(keys.len());
        for (plan, parents) in by_plan(keys) {
            match boxed(self.fetch(&plan, &parents)).await {
                Ok(mut pages) => result.extend(parents.into_iter().map(|scope| {
                    let rows = pages.remove(&parent_id(scope)).unwrap_or_default();
                    (PageKey { scope, plan: Arc::clone(&plan) }, Ok(Arc::new(plan.cut(rows))))
                })),
                Err(error) => result.extend(
                    parents.into_iter().map(|scope| (PageKey { scope, plan: Arc::clone(&plan) }, Err(error.clone()))),
                ),
            }
        }
        result
    }
}

impl<E: Listed> Pages<E> {
    async fn fetch(&self, plan: &Plan, parents: &[Scope]) -> Result<HashMap<Uuid, Vec<Arc<E>>>> {
        let session = upgrade(&self.session)?;
        let mut tx = session.read().await?;
        let visible = visible::<E>(&tx);
        let keyset = plan.keyset.as_deref().unwrap_or("true");
        let tail =
            format!("{visible} and {} and {keyset} order by {} limit {}", plan.condition, plan.order, plan.limit + 1);
        let sql = match parents.first() {
            Some(Scope::Parent(column, _)) => format!(
                // The lateral join is a nested loop: rows arrive parent by parent, each parent's in order.
                "select p.key, t.* from unnest($2::uuid[]) as p(key) cross join lateral (
                   select {} from {} t where t.organization_id = $1 and {column} = p.key and {} and {tail}) t",
                E::COLUMNS,
                E::TABLE,
                E::LISTED_WHEN,
            ),
            _ => format!(
                "select null, {} from {} t where t.organization_id = $1 and {} and {tail}",
                E::COLUMNS,
                E::TABLE,
                E::LISTED_WHEN,
            ),
        };
        let rows = run(&mut tx, sql, parents, &plan.binds).await?;
        let mut pages: HashMap<Uuid, Vec<Arc<E>>> = HashMap::with_capacity(parents.len());
        for row in &rows {
            pages.entry(page_of(row, parents)?).or_default().push(Arc::new(E::decode(row, 1)?));
        }
        Ok(pages)
    }
}

impl<E: Listed> BatchFn<PageKey, Result<i64>> for Counts<E> {
    async fn load(&mut self, keys: &[PageKey]) -> HashMap<PageKey, Result<i64>> {
        let mut result = HashMap::with_capacity(keys.len());
        for (plan, parents) in by_plan(keys) {
            let counts = boxed(self.fetch(&plan, &parents)).await;
            result.extend(parents.into_iter().map(|scope| {
                let count = match &counts {
                    Ok(counts) => Ok(counts.get(&parent_id(scope)).copied().unwrap_or(0)),
                    Err(error) => Err(error.clone()),
                };
                (PageKey { scope, plan: Arc::clone(&plan) }, count)
            }));
        }
        result
    }
}

impl<E: Listed> Counts<E> {
    async fn fetch(&self, plan: &Plan, parents: &[Scope]) -> Result<HashMap<Uuid, i64>> {
        let session = upgrade(&self.session)?;
        let mut tx = session.read().await?;
        let (table, listed, visible, condition) = (E::TABLE, E::LISTED_WHEN, visible::<E>(&tx), &plan.condition);
        let sql = match parents.first() {
            Some(Scope::Parent(column, _)) => format!(
                "select {column}, count(*) from {table} t
                  where t.organization_id = $1 and {column} = any($2) and {listed} and {visible} and {condition} group by 1"
            ),
            _ => format!(
                "select null, count(*) from {table} t where t.organization_id = $1 and {listed} and {visible} and {condition}"
            ),
        };
        let rows = run(&mut tx, sql, parents, &plan.binds[..plan.filter_binds]).await?;
        rows.iter().map(|row| Ok((page_of(row, parents)?, row.try_get(1)?))).collect()
    }
}

/// Keeps what a statement needs out of the futures that wait for it. async-graphql allocates and copies, for every
/// field it resolves, a future as large as the largest resolver of the field's type.
fn boxed<F: Future>(future: F) -> Pin<Box<F>> {
    Box::pin(future)
}

/// The lists that one statement can answer together: the same plan and the same parent column.
fn by_plan(keys: &[PageKey]) -> Vec<(Arc<Plan>, Vec<Scope>)> {
    type Question<'a> = (&'a Plan, Option<&'static str>);
    let mut groups: HashMap<Question<'_>, (Arc<Plan>, Vec<Scope>)> = HashMap::new();
    for key in keys {
        let column = match key.scope {
            Scope::Organization | Scope::Platform => None,
            Scope::Parent(column, _) => Some(column),
        };
        groups.entry((&key.plan, column)).or_insert_with(|| (Arc::clone(&key.plan), Vec::new())).1.push(key.scope);
    }
    groups.into_values().collect()
}

/// Runs a list statement: `$1` is the organization, `$2` the parents (declared, and unused where there are none).
async fn run(tx: &mut TenantTx, sql: String, parents: &[Scope], binds: &[Bind]) -> Result<Vec<PgRow>> {
    let parents: Vec<Uuid> = parents.iter().map(|scope| parent_id(*scope)).collect();
    let mut arguments = PgArguments::default();
    arguments.reserve(LEADING_PARAMETERS + binds.len(), 64);
    arguments.add(tx.tenant().organization_id).map_err(Error::internal)?;
    arguments.add(parents).map_err(Error::internal)?;
    for bind in binds {
        bind.add_to(&mut arguments)?;
    }
    Ok(sqlx::query_with(AssertSqlSafe(sql), arguments).fetch_all(tx.conn()).await?)
}

/// The condition that hides from this viewer what their role may not see.
fn visible<E: Entity>(tx: &TenantTx) -> String {
    match E::HIDDEN {
        Some((hidden, action)) if !action.allows(tx.tenant().role) => format!("not ({hidden})"),
        _ => String::from("true"),
    }
}

/// The page a row belongs to: its first column, or the only page there is.
fn page_of(row: &PgRow, parents: &[Scope]) -> Result<Uuid> {
    match parents.first() {
        Some(Scope::Parent(..)) => Ok(row.try_get(0)?),
        _ => Ok(Uuid::nil()),
    }
}

fn parent_id(scope: Scope) -> Uuid {
    match scope {
        Scope::Organization | Scope::Platform => Uuid::nil(),
        Scope::Parent(_, id) => id,
    }
}

fn upgrade(session: &Weak<Session>) -> Result<Arc<Session>> {
    session.upgrade().ok_or_else(|| Error::internal("a loader outlived its request"))
}
