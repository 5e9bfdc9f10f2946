//! The batch functions behind the loaders: one statement for all keys that siblings asked for.
//!
//! Loaders live as long as one request: nothing that one tenant loaded is ever there for another.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, Weak};

use dataloader::BatchFn;
use futures_util::future::join_all;
use sqlx::postgres::PgArguments;
use sqlx::{Arguments as _, AssertSqlSafe, Row as _};
use uuid::Uuid;

use crate::db::{Batch, Bind, Reading, Row, SystemTx, TenantTx};
use crate::error::{Error, Result};
use crate::graphql::entity::{Entity, by_id, visible};
use crate::graphql::listing::Listed;
use crate::graphql::plan::{ListPage, ListPlan, Scope};
use crate::graphql::session::Session;

/// A loader of the crate `dataloader` over one of the batch functions below.
pub type Loader<K, V, B> = dataloader::cached::Loader<K, Result<V>, B>;

/// A batch function of one session; `Q` says what it fetches.
pub struct Fetch<Q> {
    session: Weak<Session>,
    what: PhantomData<fn() -> Q>,
}

impl<Q> Fetch<Q> {
    /// The batch function of this session.
    #[must_use]
    pub fn of(session: Weak<Session>) -> Self {
        Self { session, what: PhantomData }
    }

    fn session(&self) -> Result<Arc<Session>> {
        self.session.upgrade().ok_or_else(|| Error::internal("a loader outlived its request"))
    }
}

/// Fetches rows by id. An id of another tenant is like one that does not exist: row-level security hides it.
pub struct ById<E>(PhantomData<E>);
/// Fetches pages of lists.
pub struct Pages<E>(PhantomData<E>);
/// Fetches total counts of lists.
pub struct Counts<E>(PhantomData<E>);

/// A list of one scope.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PageKey {
    /// Whose rows.
    pub scope: Scope,
    /// Which of them.
    pub plan: Arc<ListPlan>,
}

impl<E: Entity> BatchFn<Uuid, Result<Option<Arc<E>>>> for Fetch<ById<E>> {
    async fn load(&mut self, keys: &[Uuid]) -> HashMap<Uuid, Result<Option<Arc<E>>>> {
        match boxed(self.rows(keys)).await {
            Ok(mut rows) => keys.iter().map(|key| (*key, Ok(rows.remove(key)))).collect(),
            Err(error) => keys.iter().map(|key| (*key, Err(error.clone()))).collect(),
        }
    }
}

impl<E: Entity> Fetch<ById<E>> {
    async fn rows(&self, keys: &[Uuid]) -> Result<HashMap<Uuid, Arc<E>>> {
        let session = self.session()?;
        let batch = session.batch(E::NAME, E::TABLE, "rows", keys.len());
        let tx = session.read().await?;
        let mut binds = vec![Bind::Uuids(keys.to_vec())];
        if E::TENANT {
            binds.push(Bind::Uuid(tx.tenant().organization_id.uuid()));
        }
        let sql = by_id::<E>("$2", "any($1)", &visible::<E>(tx.tenant().allowed));
        let rows = tx.fetch_for(Some(&batch), &sql, &binds).await?;
        rows.iter().map(|row| E::read(row, 0).map(|row| (row.uuid(), Arc::new(row)))).collect()
    }
}

/// The statement for one row that is read together with the opening, when the viewer is not known yet: the row with this
/// id, or with that of the organization.
pub(super) fn by_id_at_first<E: Entity>(id: Option<Uuid>) -> (String, Vec<Bind>) {
    let (wanted, binds) = match id {
        Some(id) => ("$1", vec![Bind::Uuid(id)]),
        None => ("tenantry.current_org()", Vec::new()),
    };
    (by_id::<E>("tenantry.current_org()", wanted, "true"), binds)
}

impl<E: Listed> BatchFn<PageKey, Result<Arc<ListPage<E>>>> for Fetch<Pages<E>> {
    async fn load(&mut self, keys: &[PageKey]) -> HashMap<PageKey, Result<Arc<ListPage<E>>>> {
        let mut result = HashMap::with_capacity(keys.len());
        let groups = by_plan(keys);
        let asked = join_all(groups.iter().map(|(plan, parents)| boxed(self.pages(plan, parents)))).await;
        for ((plan, parents), pages) in groups.into_iter().zip(asked) {
            match pages {
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

impl<E: Listed> Fetch<Pages<E>> {
    async fn pages(&self, plan: &ListPlan, parents: &[Scope]) -> Result<HashMap<Uuid, Vec<Arc<E>>>> {
        let session = self.session()?;
        let batch = session.batch(E::NAME, E::TABLE, "pages", parents.len());
        let tx = session.read().await?;
        let sql = page_statement::<E>(plan, parents.first().copied(), &visible::<E>(tx.tenant().allowed));
        let rows = run(&tx, &batch, &sql, parents, &plan.binds).await?;
        let mut pages: HashMap<Uuid, Vec<Arc<E>>> = HashMap::with_capacity(parents.len());
        for row in &rows {
            pages.entry(page_of(row, parents)?).or_default().push(Arc::new(E::read_some(row, 1, plan.columns)?));
        }
        Ok(pages)
    }
}

/// The statement of a page: the parent's id, or null, and the columns.
fn page_statement<E: Listed>(plan: &ListPlan, parent: Option<Scope>, visible: &str) -> String {
    let (columns, table, listed) = (E::sql_columns(plan.columns), E::TABLE, E::LISTED_WHEN);
    let keyset = plan.keyset.as_deref().unwrap_or("true");
    let tail =
        format!("{visible} and {} and {keyset} order by {} limit {}", plan.condition, plan.order, plan.limit + 1);
    match parent {
        Some(Scope::Parent(column, _)) => format!(
            // The lateral join is a nested loop: rows arrive parent by parent, each parent's in order.
            "select p.key, t.* from unnest($2::uuid[]) as p(key) cross join lateral (
               select {columns} from {table} t where t.organization_id = $1 and {column} = p.key and {listed} and {tail}) t"
        ),
        _ => format!("select null, {columns} from {table} t where t.organization_id = $1 and {listed} and {tail}"),
    }
}

impl<E: Listed> BatchFn<PageKey, Result<i64>> for Fetch<Counts<E>> {
    async fn load(&mut self, keys: &[PageKey]) -> HashMap<PageKey, Result<i64>> {
        let mut result = HashMap::with_capacity(keys.len());
        let groups = by_plan(keys);
        let asked = join_all(groups.iter().map(|(plan, parents)| boxed(self.counts(plan, parents)))).await;
        for ((plan, parents), counts) in groups.into_iter().zip(asked) {
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

impl<E: Listed> Fetch<Counts<E>> {
    async fn counts(&self, plan: &ListPlan, parents: &[Scope]) -> Result<HashMap<Uuid, i64>> {
        let session = self.session()?;
        let batch = session.batch(E::NAME, E::TABLE, "counts", parents.len());
        let tx = session.read().await?;
        let (table, listed, visible, condition) =
            (E::TABLE, E::LISTED_WHEN, visible::<E>(tx.tenant().allowed), &plan.condition);
        let mut binds = plan.binds[..plan.filter_binds].to_vec();
        let at_most = (plan.limit > 0).then(|| {
            binds.push(Bind::Int(plan.limit));
            // In the list's order, so that an index is read up to there and no further.
            format!("order by {} limit ${}", plan.order, binds.len() + 2)
        });
        let sql = match (parents.first(), at_most) {
            (Some(Scope::Parent(column, _)), None) => format!(
                "select {column}, count(*) from {table} t
                  where t.organization_id = $1 and {column} = any($2) and {listed} and {visible} and {condition} group by 1"
            ),
            (Some(Scope::Parent(column, _)), Some(at_most)) => format!(
                "select p.key, n.count from unnest($2::uuid[]) as p(key) cross join lateral (
                   select count(*) from (
                     select from {table} t where t.organization_id = $1 and {column} = p.key and {listed} and {visible}
                        and {condition} {at_most}) t) n"
            ),
            (_, None) => format!(
                "select null, count(*) from {table} t where t.organization_id = $1 and {listed} and {visible} and {condition}"
            ),
            (_, Some(at_most)) => format!(
                "select null, count(*) from (
                   select from {table} t where t.organization_id = $1 and {listed} and {visible} and {condition} {at_most}) t"
            ),
        };
        let rows = run(&tx, &batch, &sql, parents, &binds).await?;
        rows.iter().map(|row| Ok((page_of(row, parents)?, row.try_get(1)?))).collect()
    }
}

/// Reads a page over all organizations in this transaction, and commits the record of it.
///
/// # Errors
/// When the database cannot be reached.
pub(super) async fn platform_page<E: Listed>(mut tx: SystemTx, plan: &ListPlan) -> Result<ListPage<E>> {
    let sql = format!(
        "select {} from {} t where {} and {} and {} order by {} limit {}",
        E::PLATFORM_COLUMNS,
        E::TABLE,
        E::LISTED_WHEN,
        plan.condition,
        plan.keyset.as_deref().unwrap_or("true"),
        plan.order,
        plan.limit + 1
    );
    let arguments = bound(PgArguments::default(), &plan.binds)?;
    let rows = sqlx::query_with(AssertSqlSafe(sql), arguments).fetch_all(tx.conn()).await?;
    tx.commit().await?;
    let rows = rows.iter().map(|row| E::decode(row, 0).map(Arc::new)).collect::<sqlx::Result<Vec<_>>>()?;
    Ok(plan.cut(rows))
}

/// Counts the rows of a list over all organizations in this transaction, at most so many, and commits the record of it.
///
/// # Errors
/// When the database cannot be reached.
pub(super) async fn platform_count<E: Listed>(mut tx: SystemTx, plan: &ListPlan, at_most: Option<i64>) -> Result<i64> {
    let mut binds = plan.binds[..plan.filter_binds].to_vec();
    let limit = at_most.map(|at_most| {
        binds.push(Bind::Int(at_most));
        format!("order by {} limit ${}", plan.order, binds.len())
    });
    let limit = limit.unwrap_or_default();
    let (table, listed, condition) = (E::TABLE, E::LISTED_WHEN, &plan.condition);
    let sql = format!("select count(*) from (select from {table} t where {listed} and {condition} {limit}) t");
    let arguments = bound(PgArguments::default(), &binds)?;
    let row = sqlx::query_with(AssertSqlSafe(sql), arguments).fetch_one(tx.conn()).await?;
    tx.commit().await?;
    Ok(row.try_get(0)?)
}

/// Keeps what a statement needs out of the futures that wait for it. async-graphql allocates and copies, for every
/// field it resolves, a future as large as the largest resolver of the field's type.
fn boxed<F: Future>(future: F) -> Pin<Box<F>> {
    Box::pin(future)
}

/// The lists that one statement can answer together: the same plan and the same parent column.
fn by_plan(keys: &[PageKey]) -> Vec<(Arc<ListPlan>, Vec<Scope>)> {
    type Question<'a> = (&'a ListPlan, Option<&'static str>);
    let mut groups: HashMap<Question<'_>, (Arc<ListPlan>, Vec<Scope>)> = HashMap::new();
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
async fn run(tx: &TenantTx<Reading>, batch: &Batch, sql: &str, parents: &[Scope], binds: &[Bind]) -> Result<Vec<Row>> {
    let parents: Vec<Uuid> = parents.iter().map(|scope| parent_id(*scope)).collect();
    let mut all = Vec::with_capacity(2 + binds.len());
    all.push(Bind::Uuid(tx.tenant().organization_id.uuid()));
    all.push(Bind::Uuids(parents));
    all.extend_from_slice(binds);
    tx.fetch_for(Some(batch), sql, &all).await
}

/// The arguments, with these values behind them.
fn bound(mut arguments: PgArguments, binds: &[Bind]) -> Result<PgArguments> {
    arguments.reserve(binds.len(), 64);
    for bind in binds {
        bind.add_to(&mut arguments)?;
    }
    Ok(arguments)
}

/// The page a row belongs to: its first column, or the only page there is.
fn page_of(row: &Row, parents: &[Scope]) -> Result<Uuid> {
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
