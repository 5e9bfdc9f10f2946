//! An upper bound of what an operation returns: fields times the rows of the pages they stand in.
//!
//! `first` and `last` may be variables, so the bound is computed for every request whose document uses them so. Fragments
//! are computed once: inside a page a fragment costs a part that is there once (`pageInfo`, `totalCount`) and a part per
//! row (`nodes`, `edges`), and the page size is put in where the fragment is used.

use std::collections::HashMap;

use async_graphql::parser::types::{
    ExecutableDocument, Field, FragmentDefinition, OperationDefinition, Selection, SelectionSet,
};
use async_graphql::{Name, Positioned, Variables};
use async_graphql_value::Value;

use super::catalog::{Catalog, Composite};

/// The page size of a connection without a usable `first` or `last`.
const DEFAULT_PAGE: u64 = 50;

/// The cost of a selection set.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    /// Once.
    plain: u64,
    /// Per row of the page whose connection the selection set belongs to.
    per_row: u64,
}

/// The bound for the only operation of the document.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Complexity {
    /// Fields times rows.
    pub(super) value: u64,
    /// Whether other variables would give another value.
    pub(super) depends_on_variables: bool,
}

/// Computes the bound. The document must have passed the limits: its fragments form no cycle.
pub(super) fn complexity(
    document: &ExecutableDocument,
    operation: &OperationDefinition,
    catalog: &Catalog,
    variables: &Variables,
) -> Complexity {
    let mut estimate = Estimate {
        catalog,
        variables,
        fragments: &document.fragments,
        known: HashMap::new(),
        depends_on_variables: false,
    };
    let cost = estimate.selection_set(&operation.selection_set.node, catalog.root(operation.ty));
    Complexity { value: cost.plain.saturating_add(cost.per_row), depends_on_variables: estimate.depends_on_variables }
}

struct Estimate<'a> {
    catalog: &'a Catalog,
    variables: &'a Variables,
    fragments: &'a HashMap<Name, Positioned<FragmentDefinition>>,
    known: HashMap<&'a str, Cost>,
    depends_on_variables: bool,
}

impl<'a> Estimate<'a> {
    fn selection_set(&mut self, set: &'a SelectionSet, parent: Option<&'a Composite>) -> Cost {
        let mut cost = Cost::default();
        for selection in &set.items {
            let inner = match &selection.node {
                Selection::Field(field) => self.field(&field.node, parent),
                Selection::InlineFragment(fragment) => {
                    let condition = fragment.node.type_condition.as_ref();
                    let on = condition.map_or(parent, |on| self.catalog.composite(&on.node.on.node));
                    self.selection_set(&fragment.node.selection_set.node, on)
                }
                Selection::FragmentSpread(spread) => self.fragment(&spread.node.fragment_name.node),
            };
            cost.plain = cost.plain.saturating_add(inner.plain);
            cost.per_row = cost.per_row.saturating_add(inner.per_row);
        }
        cost
    }

    fn fragment(&mut self, name: &'a str) -> Cost {
        if let Some(cost) = self.known.get(name) {
            return *cost;
        }
        let Some(fragment) = self.fragments.get(name) else { return Cost::default() };
        let on = self.catalog.composite(&fragment.node.type_condition.node.on.node);
        let cost = self.selection_set(&fragment.node.selection_set.node, on);
        self.known.insert(name, cost);
        cost
    }

    fn field(&mut self, field: &'a Field, parent: Option<&'a Composite>) -> Cost {
        let name = field.name.node.as_str();
        let known = parent.and_then(|parent| self.catalog.field(parent, name));
        let of = known.and_then(|known| self.catalog.composite(&known.type_name));
        let inner = self.selection_set(&field.selection_set.node, of);
        let rows = if of.is_some_and(|of| of.connection) {
            self.page(field)
        } else if known.is_some_and(|known| known.list) {
            self.listed_ids(field)
        } else {
            1
        };
        let own = if of.is_some_and(|of| of.connection) {
            inner.per_row.saturating_mul(rows).saturating_add(inner.plain)
        } else {
            inner.plain.saturating_add(inner.per_row).saturating_mul(rows)
        };
        let own = own.saturating_add(1);
        if parent.is_some_and(|parent| parent.connection) && matches!(name, "nodes" | "edges") {
            Cost { plain: 0, per_row: own }
        } else {
            Cost { plain: own, per_row: 0 }
        }
    }

    /// The page size of a connection field.
    fn page(&mut self, field: &Field) -> u64 {
        let sizes = ["first", "last"].map(|name| match field.get_argument(name).map(|value| &value.node) {
            Some(Value::Number(number)) => number.as_u64(),
            Some(Value::Variable(variable)) => {
                self.depends_on_variables = true;
                match self.variables.get(variable) {
                    Some(async_graphql::Value::Number(number)) => number.as_u64(),
                    _ => None,
                }
            }
            _ => None,
        });
        sizes.into_iter().flatten().max().unwrap_or(DEFAULT_PAGE)
    }

    /// How many rows a field such as `nodes(ids:)` can return.
    fn listed_ids(&mut self, field: &Field) -> u64 {
        match field.get_argument("ids").map(|value| &value.node) {
            Some(Value::List(ids)) => ids.len() as u64,
            Some(Value::Variable(variable)) => {
                self.depends_on_variables = true;
                match self.variables.get(variable) {
                    Some(async_graphql::Value::List(ids)) => ids.len() as u64,
                    _ => 1,
                }
            }
            _ => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use async_graphql::parser::parse_query;
    use serde_json::json;

    use super::*;

    const SDL: &str = "
        type Row { id: ID rows(first: Int, last: Int): RowConnection }
        type RowConnection { nodes: [Row!]! edges: [RowEdge!]! totalCount: Int }
        type RowEdge { cursor: String node: Row }
        type Query { rows(first: Int, last: Int): RowConnection nodes(ids: [ID!]!): [Row]! row: Row }
        schema { query: Query }";

    fn of(query: &str, variables: serde_json::Value) -> (u64, bool) {
        let catalog = Catalog::read(SDL, true).expect("the SDL parses");
        let document = parse_query(query).expect("the query parses");
        let (_, operation) = document.operations.iter().next().expect("an operation");
        let found = complexity(&document, &operation.node, &catalog, &Variables::from_json(variables));
        (found.value, found.depends_on_variables)
    }

    #[test]
    fn rows_multiply_and_what_is_there_once_does_not() {
        for (query, expected) in [
            ("{ row { id } }", 2),
            ("{ rows(first: 10) { totalCount nodes { id } } }", 1 + 1 + 10 * 2),
            ("{ rows(last: 10) { edges { cursor node { id } } } }", 1 + 10 * 4),
            ("{ rows { nodes { id } } }", 1 + 50 * 2),
            ("{ rows(first: -1) { nodes { id } } }", 1 + 50 * 2),
            ("{ rows(first: null) { nodes { id } } }", 1 + 50 * 2),
            ("{ rows(first: 10) { nodes { rows(first: 10) { nodes { id } } } } }", 1 + 10 * (1 + 1 + 10 * 2)),
            ("{ rows(first: 10) { ...p } } fragment p on RowConnection { totalCount nodes { id } }", 1 + 1 + 10 * 2),
            ("{ rows(first: 10) { ... on RowConnection { nodes { id } } } }", 1 + 10 * 2),
            ("{ nodes(ids: [\"a\", \"b\", \"c\"]) { id } }", 1 + 3),
            ("{ __schema { types { fields { name } } } }", 4),
        ] {
            assert_eq!(of(query, json!({})), (expected, false), "{query}");
        }
    }

    #[test]
    fn nothing_overflows() {
        let query =
            "{ rows(first: 9223372036854775807) { nodes { rows(first: 18446744073709551615) { nodes { id } } } } }";
        assert_eq!(of(query, json!({})).0, u64::MAX);
    }

    #[test]
    fn variables_are_looked_up() {
        let query = "query($n: Int, $ids: [ID!]!) { rows(first: $n) { nodes { id } } nodes(ids: $ids) { id } }";
        assert_eq!(of(query, json!({"n": 10, "ids": ["a", "b"]})), (1 + 10 * 2 + 1 + 2, true));
        assert_eq!(of(query, json!({"n": -10})), (1 + 50 * 2 + 1 + 1, true));
    }
}
