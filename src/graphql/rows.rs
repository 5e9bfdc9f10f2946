//! Rows of a list, written as JSON without the engine.
//!
//! The engine makes a future for every field of every row and, whenever one of them can go on, polls all that wait. A
//! list whose selection asks for nothing but columns, values computed from them and single related rows needs no
//! futures: [`resolve`] reads the selection once, loads each relation for all rows together, and writes the text row by row.
//! Everything else is left to the engine, for the whole list: a list inside a row, a field that can fail, an interface.
//! So is every failure, so that nulls, messages and error paths are made in one place.
//!
//! What is written goes into the answer as [`Value::Binary`], which nothing else in this program is; [`write_value`] puts it
//! into the text as it is.

use std::borrow::{Borrow, Cow};
use std::collections::HashMap;
use std::sync::Arc;

use async_graphql::context::{ContextSelectionSet, QueryEnv};
use async_graphql::parser::types::{Field, Selection, SelectionSet};
use async_graphql::registry::Registry;
use async_graphql::resolver_utils::resolve_list;
use async_graphql::{Context, OutputType, Positioned, ServerResult, Value};
use futures_util::future::{BoxFuture, join_all, ready};
use uuid::Uuid;

use crate::graphql::cells::Columns;
use crate::graphql::entity::{Entity, Loadable};
use crate::graphql::session::Session;
use crate::id::Id;
use crate::json::{self, Json};

/// Data of a request whose lists the engine must resolve: its document selects the same composite field twice in one place,
/// and the engine merges the two values.
#[derive(Clone, Copy, Debug)]
pub struct Merging;

/// An object whose fields are written without waiting: an entity, or a part of one ([`Money`](crate::graphql::money::Money)).
pub trait Object: Sized + Send + Sync + 'static {
    /// The name of the GraphQL type.
    fn type_name() -> Cow<'static, str>;
    /// What stands behind the field with this name; `None` leaves the list to the engine.
    fn part(name: &str) -> Option<Part<Self>>;
}

/// The relations and computed values of an entity, as [`relations!`](crate::relations) declares them.
pub trait Related: Sized {
    /// What stands behind the field with this name.
    #[must_use]
    fn related(name: &str) -> Option<Part<Self>> {
        let _ = name;
        None
    }
}

impl<E: Entity + Related> Object for E {
    fn type_name() -> Cow<'static, str> {
        Cow::Borrowed(E::NAME)
    }

    fn part(name: &str) -> Option<Part<Self>> {
        let column = E::column(name);
        column.map(|(field, write)| Part(Behind::Value(Box::new(write)), E::place(field))).or_else(|| E::related(name))
    }
}

/// What stands behind a field, and the columns of the list's row that it needs.
pub struct Part<T>(Behind<T>, Columns);

enum Behind<T> {
    Value(Box<Write<T>>),
    /// An object with a selection of its own.
    Object(Box<Reader<T>>),
}

/// What can be computed from a row: every [`Json`] value, and objects that say so.
pub trait Computed: Sized + 'static {
    /// What stands behind a field that shows it.
    fn part<T: Send + Sync + 'static>(make: fn(&T) -> Self) -> Part<T>;
}

impl<V: Json + 'static> Computed for V {
    fn part<T: Send + Sync + 'static>(make: fn(&T) -> Self) -> Part<T> {
        Part(Behind::Value(Box::new(move |row, out| make(row).write(out))), Columns::ALL)
    }
}

/// Writes a value of the row.
type Write<T> = dyn Fn(&T, &mut Vec<u8>) + Send + Sync;

/// Reads the selection of an object behind a field.
type Reader<T> = dyn FnOnce(&Selected<'_>) -> Option<Box<dyn Nested<T>>>;

/// An object behind a field of `T`.
trait Nested<T>: Send + Sync {
    /// Loads what these rows relate to. `false` leaves the list to the engine.
    fn load<'a>(&'a mut self, session: &'a Session, rows: &'a [&'a T]) -> BoxFuture<'a, bool>;
    /// Writes the object of this row.
    fn write(&self, row: &T, out: &mut Vec<u8>);
    /// The columns of the list's row that the object's own fields need.
    fn columns(&self) -> Columns {
        Columns::NONE
    }
}

impl<T: Send + Sync + 'static> Part<T> {
    /// The row that `id` names, which is this field of the row.
    #[must_use]
    pub fn related<M>(field: &str, id: fn(&T) -> Option<Id<M>>, required: bool) -> Self
    where
        T: Entity,
        M: Loadable,
        M::Entity: Related,
    {
        let read: Box<Reader<T>> = Box::new(move |selected| {
            let plan = Plan::read(selected)?;
            Some(Box::new(RelatedRow::<T, M> { id, required, plan, found: HashMap::new() }))
        });
        Self(Behind::Object(read), T::place(field))
    }

    /// A value computed from the row, or an object.
    #[must_use]
    pub fn of<V: Computed>(make: fn(&T) -> V) -> Self {
        V::part(make)
    }

    /// The same, when it is known what it needs.
    #[must_use]
    pub fn needing(self, columns: Columns) -> Self {
        Self(self.0, columns)
    }

    /// The row itself, inside of what the list shows: `inner` finds it.
    #[must_use]
    pub fn within<O: Object>(inner: fn(&T) -> &O) -> Self {
        let read: Box<Reader<T>> =
            Box::new(move |selected| Some(Box::new(Within { inner, plan: Plan::read(selected)? })));
        Self(Behind::Object(read), Columns::NONE)
    }

    /// An object computed from the row.
    #[must_use]
    pub fn computed<O: Object>(make: fn(&T) -> O) -> Self {
        let read: Box<Reader<T>> = Box::new(move |selected| {
            let plan = Plan::read(selected)?;
            // Nothing is loaded for what is made while it is written.
            (!plan.loads()).then(|| Box::new(Made { make, plan }) as Box<dyn Nested<T>>)
        });
        Self(Behind::Object(read), Columns::ALL)
    }
}

/// A selection set, and what is needed to read it.
#[derive(Clone, Copy)]
struct Selected<'a> {
    set: &'a SelectionSet,
    query: &'a QueryEnv,
    registry: &'a Registry,
}

/// The fields of one selection set on `T`, in the order of the answer.
struct Plan<T> {
    fields: Vec<Planned<T>>,
    /// The columns of the list's row that the fields need.
    columns: Columns,
}

struct Planned<T> {
    key: Box<str>,
    /// `{"key":` or `,"key":`.
    prefix: Box<[u8]>,
    content: Content<T>,
}

enum Content<T> {
    TypeName(Cow<'static, str>),
    Value(Box<Write<T>>),
    Object(Box<dyn Nested<T>>),
}

impl<T: Object> Plan<T> {
    /// Reads a selection; `None` when the engine has to do it.
    fn read(selected: &Selected<'_>) -> Option<Self> {
        let mut plan = Self { fields: Vec::with_capacity(selected.set.items.len()), columns: Columns::NONE };
        plan.add(selected)?;
        Some(plan)
    }

    fn add(&mut self, selected: &Selected<'_>) -> Option<()> {
        for selection in &selected.set.items {
            match &selection.node {
                Selection::Field(field) => self.add_field(&field.node, selected)?,
                Selection::InlineFragment(fragment) => {
                    let condition = fragment.node.type_condition.as_ref().map(|on| on.node.on.node.as_str());
                    self.add_fragment(condition, &fragment.node.selection_set.node, selected)?;
                }
                Selection::FragmentSpread(spread) => {
                    let fragment = &selected.query.fragments.get(&spread.node.fragment_name.node)?.node;
                    let condition = Some(fragment.type_condition.node.on.node.as_str());
                    self.add_fragment(condition, &fragment.selection_set.node, selected)?;
                }
            }
        }
        Some(())
    }

    fn add_fragment(&mut self, condition: Option<&str>, set: &SelectionSet, selected: &Selected<'_>) -> Option<()> {
        let applies = condition.is_none_or(|condition| {
            let own = T::type_name();
            let interfaces = selected.registry.implements.get(&*own);
            condition == own || interfaces.is_some_and(|interfaces| interfaces.contains(condition))
        });
        if applies { self.add(&Selected { set, ..*selected }) } else { Some(()) }
    }

    fn add_field(&mut self, field: &Field, selected: &Selected<'_>) -> Option<()> {
        if !field.arguments.is_empty() || !field.directives.is_empty() {
            return None;
        }
        let key = field.response_key().node.as_str();
        let known = self.fields.iter().any(|planned| &*planned.key == key);
        let content = if field.name.node == "__typename" {
            Content::TypeName(T::type_name())
        } else {
            let Part(behind, columns) = T::part(&field.name.node)?;
            self.columns = self.columns.with(columns);
            match behind {
                Behind::Value(write) => Content::Value(write),
                // The two selections would have to be merged.
                Behind::Object(_) if known => return None,
                Behind::Object(read) => {
                    let inner = Selected { set: &field.selection_set.node, ..*selected };
                    let nested = read(&inner)?;
                    self.columns = self.columns.with(nested.columns());
                    Content::Object(nested)
                }
            }
        };
        if !known {
            let separator = if self.fields.is_empty() { '{' } else { ',' };
            let prefix = format!("{separator}\"{key}\":").into_bytes().into();
            self.fields.push(Planned { key: key.into(), prefix, content });
        }
        Some(())
    }
}

impl<T: Send + Sync> Plan<T> {
    fn loads(&self) -> bool {
        self.fields.iter().any(|field| matches!(field.content, Content::Object(_)))
    }

    /// Loads all relations at once: what they need leaves together.
    async fn load(&mut self, session: &Session, rows: &[&T]) -> bool {
        let nested = self.fields.iter_mut().filter_map(|field| match &mut field.content {
            Content::Object(nested) => Some(nested.load(session, rows)),
            _ => None,
        });
        join_all(nested).await.into_iter().all(|loaded| loaded)
    }

    fn write(&self, row: &T, out: &mut Vec<u8>) {
        if self.fields.is_empty() {
            out.push(b'{');
        }
        for field in &self.fields {
            out.extend_from_slice(&field.prefix);
            match &field.content {
                Content::TypeName(name) => name.as_ref().write(out),
                Content::Value(write) => write(row, out),
                Content::Object(nested) => nested.write(row, out),
            }
        }
        out.push(b'}');
    }
}

struct Within<T, O> {
    inner: fn(&T) -> &O,
    plan: Plan<O>,
}

impl<T: Send + Sync, O: Object> Nested<T> for Within<T, O> {
    fn load<'a>(&'a mut self, session: &'a Session, rows: &'a [&'a T]) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            let rows: Vec<&O> = rows.iter().map(|row| (self.inner)(row)).collect();
            self.plan.load(session, &rows).await
        })
    }

    fn write(&self, row: &T, out: &mut Vec<u8>) {
        self.plan.write((self.inner)(row), out);
    }

    fn columns(&self) -> Columns {
        self.plan.columns
    }
}

struct Made<T, O> {
    make: fn(&T) -> O,
    plan: Plan<O>,
}

impl<T: Send + Sync, O: Object> Nested<T> for Made<T, O> {
    fn load<'a>(&'a mut self, _: &'a Session, _: &'a [&'a T]) -> BoxFuture<'a, bool> {
        Box::pin(ready(true))
    }

    fn write(&self, row: &T, out: &mut Vec<u8>) {
        self.plan.write(&(self.make)(row), out);
    }
}

struct RelatedRow<T, M: Loadable> {
    id: fn(&T) -> Option<Id<M>>,
    required: bool,
    plan: Plan<M::Entity>,
    found: HashMap<Uuid, Arc<M::Entity>>,
}

impl<T: Send + Sync, M> Nested<T> for RelatedRow<T, M>
where
    M: Loadable,
    M::Entity: Related,
{
    fn load<'a>(&'a mut self, session: &'a Session, rows: &'a [&'a T]) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            let mut ids: Vec<Uuid> = rows.iter().filter_map(|row| (self.id)(row)).map(Id::uuid).collect();
            ids.sort_unstable();
            ids.dedup();
            if ids.is_empty() {
                return !self.required;
            }
            let Ok(found) = session.load_many::<M>(ids).await else { return false };
            self.found = found;
            let found = &self.found;
            if self.required && !rows.iter().all(|row| (self.id)(row).is_some_and(|id| found.contains_key(&id.uuid())))
            {
                return false;
            }
            if !self.plan.loads() {
                return true;
            }
            let related: Vec<&M::Entity> = found.values().map(Arc::as_ref).collect();
            self.plan.load(session, &related).await
        })
    }

    fn write(&self, row: &T, out: &mut Vec<u8>) {
        match (self.id)(row).and_then(|id| self.found.get(&id.uuid())) {
            Some(related) => self.plan.write(related, out),
            None => out.extend_from_slice(b"null"),
        }
    }
}

/// The columns that the rows of this connection field are read with, beside those of its cursors.
#[must_use]
pub fn columns<O: Object, N: Object>(ctx: &Context<'_>) -> Columns {
    if ctx.data_opt::<Merging>().is_some() {
        return Columns::ALL;
    }
    let set = &ctx.item.node.selection_set.node;
    let selected = Selected { set, query: ctx.query_env, registry: &ctx.schema_env.registry };
    columns_of_page::<O, N>(&selected).unwrap_or(Columns::ALL)
}

fn columns_of_page<O: Object, N: Object>(selected: &Selected<'_>) -> Option<Columns> {
    let mut columns = Columns::NONE;
    for selection in &selected.set.items {
        let more = match &selection.node {
            Selection::Field(field) => {
                let inner = Selected { set: &field.node.selection_set.node, ..*selected };
                match field.node.name.node.as_str() {
                    "nodes" => Plan::<O>::read(&inner)?.columns,
                    "edges" => Plan::<N>::read(&inner)?.columns,
                    _ => Columns::NONE,
                }
            }
            Selection::InlineFragment(fragment) => {
                columns_of_page::<O, N>(&Selected { set: &fragment.node.selection_set.node, ..*selected })?
            }
            Selection::FragmentSpread(spread) => {
                let fragment = &selected.query.fragments.get(&spread.node.fragment_name.node)?.node;
                columns_of_page::<O, N>(&Selected { set: &fragment.selection_set.node, ..*selected })?
            }
        };
        columns = columns.with(more);
    }
    Some(columns)
}

/// Resolves a list of objects.
///
/// # Errors
/// Those of the engine.
pub async fn resolve<O: Object, I: Borrow<O> + OutputType>(
    ctx: &ContextSelectionSet<'_>,
    field: &Positioned<Field>,
    items: &[I],
) -> ServerResult<Value> {
    match Box::pin(written(ctx, items)).await {
        Some(value) => Ok(value),
        None => resolve_list(ctx, field, items.iter(), Some(items.len())).await,
    }
}

/// The JSON of a list of these objects, as an answer holds it; `None` leaves the list to the engine.
async fn written<O: Object, I: Borrow<O>>(ctx: &ContextSelectionSet<'_>, items: &[I]) -> Option<Value> {
    if ctx.data_opt::<Merging>().is_some() {
        return None;
    }
    let selected = Selected { set: &ctx.item.node, query: ctx.query_env, registry: &ctx.schema_env.registry };
    let mut plan = Plan::<O>::read(&selected)?;
    if plan.loads() && !items.is_empty() {
        let session = Session::of(ctx).ok()?;
        let rows: Vec<&O> = items.iter().map(Borrow::borrow).collect();
        if !plan.load(session, &rows).await {
            return None;
        }
    }
    let mut out = Vec::with_capacity(2 + items.len() * 32 * plan.fields.len().max(1));
    json::write_list(items, &mut out, |item, out| plan.write(item.borrow(), out));
    Some(Value::Binary(out.into()))
}

/// Writes an answer's value as JSON.
pub fn write_value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Number(number) => number.write(out),
        Value::String(text) => text.write(out),
        Value::Boolean(value) => value.write(out),
        Value::Enum(name) => name.as_str().write(out),
        // Written already: see the head of this file.
        Value::Binary(json) => out.extend_from_slice(json),
        Value::List(values) => json::write_list(values, out, write_value),
        Value::Object(members) => {
            out.push(b'{');
            for (index, (name, value)) in members.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                name.as_str().write(out);
                out.push(b':');
                write_value(value, out);
            }
            out.push(b'}');
        }
    }
}

/// Whether a field of Rust is this field of the schema, where names are in camel case.
#[must_use]
pub fn is_named(graphql: &str, rust: &str) -> bool {
    let mut expected = rust.bytes();
    graphql.bytes().all(|found| match expected.next() {
        Some(b'_') => expected.next().is_some_and(|letter| letter.to_ascii_uppercase() == found),
        Some(letter) => letter == found,
        None => false,
    }) && expected.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_camel_case_are_found() {
        for (graphql, rust) in [("id", "id"), ("createdAt", "created_at"), ("slaPausedSeconds", "sla_paused_seconds")] {
            assert!(is_named(graphql, rust));
        }
        for (graphql, rust) in [("createdat", "created_at"), ("created", "created_at"), ("createdAtX", "created_at")] {
            assert!(!is_named(graphql, rust), "{graphql}");
        }
    }
}
