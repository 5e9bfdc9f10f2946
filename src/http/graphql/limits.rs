//! Limits on what a document may ask for: OWASP GraphQL Cheat Sheet, "Query Limiting".
//!
//! One walk over each fragment and operation measures them. Fragments are measured once and reused, so the cost of the
//! walk is the length of the document although what it measures is the document with all fragments expanded: thirty
//! fragments that each spread the next one twice are a thousand million fields in one kilobyte.

use std::collections::HashMap;

use async_graphql::Name;
use async_graphql::Positioned;
use async_graphql::parser::types::{
    Directive, ExecutableDocument, FragmentDefinition, OperationDefinition, Selection, SelectionSet,
};

use super::catalog::{Catalog, Composite};
use super::failure::Failure;
use crate::error::Code;

/// The limits. The defaults let every query through that a person would write, and `GraphiQL`'s introspection.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a request's body.
    pub body: usize,
    /// Bytes of a document: parsing costs time for every byte of strings and comments, too.
    pub document: usize,
    /// Tokens of a document.
    pub tokens: usize,
    /// Brackets open at once, which bounds the parser's recursion.
    pub brackets: usize,
    /// Levels of fields.
    pub depth: u64,
    /// Levels of fields below `__schema` and `__type`, these included.
    pub introspection_depth: u64,
    /// Levels of selection sets, those of fragments included. The engine's own limit is 32.
    pub nesting: u64,
    /// Aliases, with fragments expanded.
    pub aliases: u64,
    /// Fields of the root, with fragments expanded.
    pub root_fields: u64,
    /// Directives, with fragments expanded.
    pub directives: u64,
    /// Fields and spreads, with fragments expanded.
    pub fields: u64,
    /// Rows times fields that the operation may return at most, see `complexity`.
    pub complexity: u64,
    /// Levels of lists or objects in a variable.
    pub variable_depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 1024 * 1024,
            document: 128 * 1024,
            tokens: 10_000,
            brackets: 60,
            depth: 15,
            introspection_depth: 20,
            nesting: 30,
            aliases: 50,
            root_fields: 20,
            directives: 50,
            fields: 2_000,
            complexity: 100_000,
            // The deepest that is of use: a decision rule of 16 operators, each an object and a list.
            variable_depth: 40,
        }
    }
}

/// Lists that an introspection query may nest: `fields { type { fields` and deeper is how it is made to explode.
const INTROSPECTION_LISTS: u64 = 2;

/// Measures of a selection set with all fragments expanded.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Shape {
    /// Fields and spreads.
    pub(super) selections: u64,
    /// Fields on the level of the selection set itself.
    pub(super) fields_here: u64,
    pub(super) aliases: u64,
    pub(super) directives: u64,
    /// Levels of fields.
    pub(super) depth: u64,
    /// Levels of fields below `__schema` and `__type`.
    pub(super) introspection_depth: u64,
    /// Lists below each other in introspection.
    pub(super) introspection_lists: u64,
    /// Levels of selection sets.
    pub(super) nesting: u64,
    /// Whether the level of the selection set itself has `__schema` or `__type`.
    pub(super) introspects: bool,
    /// Whether the level of the selection set itself has a field that does not begin with `__`.
    pub(super) needs_viewer: bool,
}

impl Shape {
    /// Puts what stands beside it, on the same level, into the measure.
    fn add(&mut self, other: Self) {
        self.fields_here = self.fields_here.saturating_add(other.fields_here);
        self.introspects |= other.introspects;
        self.needs_viewer |= other.needs_viewer;
        self.depth = self.depth.max(other.depth);
        self.add_inner(other);
    }

    fn add_inner(&mut self, other: Self) {
        self.selections = self.selections.saturating_add(other.selections);
        self.aliases = self.aliases.saturating_add(other.aliases);
        self.directives = self.directives.saturating_add(other.directives);
        self.introspection_depth = self.introspection_depth.max(other.introspection_depth);
        self.introspection_lists = self.introspection_lists.max(other.introspection_lists);
        self.nesting = self.nesting.max(other.nesting);
    }
}

/// Measures the operations of a document and refuses what exceeds a limit, so that nothing after it can explode.
pub(super) fn check(document: &ExecutableDocument, catalog: &Catalog, limits: &Limits) -> Result<Vec<Shape>, Failure> {
    let mut walk = Walk { catalog, limits, fragments: &document.fragments, known: HashMap::new() };
    // Fragments that no operation uses are walked as well: what comes after visits them, too.
    for (name, fragment) in &document.fragments {
        walk.fragment(name, fragment, 1)?;
    }
    let shapes = document.operations.iter().map(|(_, operation)| walk.operation(&operation.node));
    let shapes = shapes.collect::<Result<Vec<_>, _>>()?;
    let total = shapes.iter().fold(0_u64, |total, shape| total.saturating_add(shape.selections));
    let most = limits.fields.saturating_mul(5);
    if total > most {
        let message =
            format!("The document's operations expand to {total} fields; at most {most} are allowed. Split it.");
        return Err(Failure::limit(Code::QueryTooManyFields, message));
    }
    Ok(shapes)
}

struct Walk<'a> {
    catalog: &'a Catalog,
    limits: &'a Limits,
    fragments: &'a HashMap<Name, Positioned<FragmentDefinition>>,
    /// The fragments measured so far; `None` marks those whose walk has begun and not ended.
    known: HashMap<&'a str, Option<Shape>>,
}

impl<'a> Walk<'a> {
    fn operation(&mut self, operation: &'a OperationDefinition) -> Result<Shape, Failure> {
        let root = self.catalog.root(operation.ty);
        let mut shape = self.selection_set(&operation.selection_set.node, root, 1)?;
        shape.directives = shape.directives.saturating_add(count(&operation.directives));
        for definition in &operation.variable_definitions {
            shape.directives = shape.directives.saturating_add(count(&definition.node.directives));
        }
        self.enforce(&shape)?;
        Ok(shape)
    }

    fn selection_set(
        &mut self,
        set: &'a SelectionSet,
        parent: Option<&'a Composite>,
        level: u64,
    ) -> Result<Shape, Failure> {
        if level > self.limits.nesting {
            return Err(too_deep(self.limits.nesting, None));
        }
        let mut shape = Shape { nesting: 1, ..Shape::default() };
        for selection in &set.items {
            shape.directives = shape.directives.saturating_add(count(selection.node.directives()));
            shape.selections = shape.selections.saturating_add(1);
            match &selection.node {
                Selection::Field(field) => {
                    let inner = self.field(&field.node, parent, level)?;
                    shape.add(inner);
                }
                Selection::InlineFragment(fragment) => {
                    let condition = fragment.node.type_condition.as_ref();
                    let on = condition.map_or(parent, |on| self.catalog.composite(&on.node.on.node));
                    let inner = self.selection_set(&fragment.node.selection_set.node, on, level + 1)?;
                    shape.add(Shape { nesting: inner.nesting.saturating_add(1), ..inner });
                }
                Selection::FragmentSpread(spread) => {
                    let name = &spread.node.fragment_name;
                    let Some(fragment) = self.fragments.get(&name.node) else {
                        return Err(Failure::invalid(
                            format!("There is no fragment \"{}\".", name.node),
                            Some(name.pos),
                        ));
                    };
                    let inner = self.fragment(&name.node, fragment, level + 1)?;
                    if level + inner.nesting > self.limits.nesting {
                        return Err(too_deep(self.limits.nesting, None));
                    }
                    shape.add(Shape { nesting: inner.nesting.saturating_add(1), ..inner });
                }
            }
        }
        Ok(shape)
    }

    fn fragment(
        &mut self,
        name: &'a str,
        fragment: &'a Positioned<FragmentDefinition>,
        level: u64,
    ) -> Result<Shape, Failure> {
        match self.known.get(name) {
            Some(Some(shape)) => return Ok(*shape),
            Some(None) => {
                let message = format!("The fragment \"{name}\" contains itself. Spread other fragments in it.");
                return Err(Failure::invalid(message, Some(fragment.pos)));
            }
            None => {}
        }
        self.known.insert(name, None);
        let on = self.catalog.composite(&fragment.node.type_condition.node.on.node);
        let mut shape = self.selection_set(&fragment.node.selection_set.node, on, level)?;
        shape.directives = shape.directives.saturating_add(count(&fragment.node.directives));
        self.known.insert(name, Some(shape));
        Ok(shape)
    }

    fn field(
        &mut self,
        field: &'a async_graphql::parser::types::Field,
        parent: Option<&'a Composite>,
        level: u64,
    ) -> Result<Shape, Failure> {
        let name = field.name.node.as_str();
        let known = parent.and_then(|parent| self.catalog.field(parent, name));
        let mut shape = Shape {
            fields_here: 1,
            aliases: u64::from(field.alias.is_some()),
            introspects: name == "__schema" || name == "__type",
            needs_viewer: !name.starts_with("__"),
            ..Shape::default()
        };
        let mut below = 0;
        if !field.selection_set.node.items.is_empty() {
            let of = known.and_then(|known| self.catalog.composite(&known.type_name));
            let inner = self.selection_set(&field.selection_set.node, of, level + 1)?;
            shape.add_inner(Shape { nesting: inner.nesting.saturating_add(1), ..inner });
            below = inner.depth;
        }
        shape.depth = below.saturating_add(1);
        if shape.introspects {
            shape.introspection_depth = shape.depth;
            shape.depth = 1;
        }
        if parent.is_none_or(|parent| parent.name.starts_with("__"))
            && matches!(name, "fields" | "inputFields" | "interfaces" | "possibleTypes")
        {
            shape.introspection_lists = shape.introspection_lists.saturating_add(1);
        }
        Ok(shape)
    }

    fn enforce(&self, shape: &Shape) -> Result<(), Failure> {
        let limits = self.limits;
        let over = |code, is: u64, limit: u64, what: &str, advice: &str| {
            let message = format!("The operation has {is} {what}; at most {limit} are allowed. {advice}");
            if is > limit { Err(Failure::limit(code, message)) } else { Ok(()) }
        };
        over(
            Code::QueryTooManyFields,
            shape.selections,
            limits.fields,
            "fields, fragments expanded",
            "Select less or split it.",
        )?;
        if shape.depth > limits.depth {
            return Err(too_deep(limits.depth, Some(shape.depth)));
        }
        if shape.introspection_depth > limits.introspection_depth || shape.introspection_lists > INTROSPECTION_LISTS {
            let message = "The introspection goes deeper than tools need. Use the standard introspection query.";
            return Err(Failure::limit(Code::QueryTooDeep, message.to_owned()));
        }
        let split = "Split it into several requests.";
        over(Code::QueryTooManyAliases, shape.aliases, limits.aliases, "aliases", split)?;
        over(Code::QueryTooManyRootFields, shape.fields_here, limits.root_fields, "root fields", split)?;
        over(Code::QueryTooManyDirectives, shape.directives, limits.directives, "directives", split)
    }
}

fn count(directives: &[Positioned<Directive>]) -> u64 {
    directives.len() as u64
}

fn too_deep(limit: u64, is: Option<u64>) -> Failure {
    let is = is.map_or_else(|| format!("more than {limit}"), |is| is.to_string());
    Failure::limit(
        Code::QueryTooDeep,
        format!(
            "The operation nests {is} levels; at most {limit} are allowed. Start deeper, with `node(id)`, or split it."
        ),
    )
}

#[cfg(test)]
mod tests {
    use async_graphql::parser::parse_query;

    use super::*;

    const SDL: &str = "
        type Query { a: Query b: Int }
        directive @ours on FIELD
        schema { query: Query }";

    fn measured(query: &str) -> Result<Shape, String> {
        let catalog = Catalog::read(SDL, true).expect("the SDL parses");
        let document = parse_query(query).expect("the query parses");
        check(&document, &catalog, &Limits::default()).map(|shapes| shapes[0]).map_err(|failure| failure.code())
    }

    #[test]
    fn fragments_count_as_often_as_they_are_spread() {
        let query = "{ x: a { ...f ...f } } fragment f on Query { y: b @ours b @skip(if: true) ... @ours { a { b } } }";
        let shape = measured(query).expect("it is within the limits");
        let expected = Shape {
            selections: 1 + 2 + 2 * 5,
            fields_here: 1,
            aliases: 1 + 2,
            directives: 2 * 3,
            depth: 3,
            nesting: 5,
            needs_viewer: true,
            ..Shape::default()
        };
        assert_eq!(shape, expected);
    }

    #[test]
    fn introspection_is_told_apart() {
        let shape = measured("{ __typename ...f } fragment f on Query { __schema { types { name } } }").expect("fine");
        assert!(shape.introspects && !shape.needs_viewer);
        assert_eq!((shape.depth, shape.introspection_depth), (1, 3));
        let standard = include_str!("../../../tests/it/audits/introspection.graphql");
        assert!(measured(standard).is_ok());
        let nested = "{ __schema { types { fields { type { fields { type { fields { name } } } } } } } }";
        assert_eq!(measured(nested), Err("QUERY_TOO_DEEP".to_owned()));
    }

    #[test]
    fn every_limit_has_its_code() {
        let many = |text: &str, times| format!("{{ a {{ {} }} }}", text.repeat(times));
        let depth = format!("{}b{}", "{ a ".repeat(15) + "{ ", " }".repeat(16));
        let nesting = format!("{}b{}", "{ ... ".repeat(30) + "{ ", " }".repeat(31));
        for (query, code) in [
            (many("b ", 2_000), "QUERY_TOO_MANY_FIELDS"),
            (many("x: b ", 51), "QUERY_TOO_MANY_ALIASES"),
            (many("b @ours ", 51), "QUERY_TOO_MANY_DIRECTIVES"),
            (format!("{{ {} }}", "b ".repeat(21)), "QUERY_TOO_MANY_ROOT_FIELDS"),
            (depth, "QUERY_TOO_DEEP"),
            (nesting, "QUERY_TOO_DEEP"),
            ("{ b } fragment f on Query { ...f }".to_owned(), "GRAPHQL_VALIDATION_FAILED"),
        ] {
            assert_eq!(measured(&query), Err(code.to_owned()), "{query}");
        }
    }
}
