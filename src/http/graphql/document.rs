//! From the text of a request to something that may be executed: parse, limit, validate, choose, coerce.
//!
//! All but the last two depend on the text alone and are remembered by it. Only documents that passed are remembered,
//! so the memory holds what clients really use, and what is remembered is executed without validating it again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use async_graphql::parser::types::{
    DocumentOperations, ExecutableDocument, FragmentDefinition, OperationDefinition, OperationType, Selection,
    SelectionSet,
};
use async_graphql::parser::{self, parse_query};
use async_graphql::{Executor, Name, Positioned, Request, Variables};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use sha2::{Digest as _, Sha256};

use super::catalog::Catalog;
use super::complexity::{Complexity, complexity};
use super::failure::Failure;
use super::limits::{self, Limits, Shape};
use super::validate::{validate, wrap_typenames};
use super::{lexer, variables};
use crate::error::Code;
use crate::graphql::rows::Merging;

/// What remembered documents may take, in bytes, roughly.
const CACHE_BYTES: u64 = 32 * 1024 * 1024;
/// Longer documents are not remembered: they carry values that belong into variables.
const MAX_CACHED_TEXT: usize = 32 * 1024;
/// A parsed document takes about this many times the memory of its text.
const PARSED_FACTOR: u64 = 16;

/// Checks documents and remembers those that passed.
pub struct Documents {
    catalog: Catalog,
    limits: Limits,
    cache: Cache<Box<str>, Arc<Document>, ByText>,
}

#[derive(Clone)]
struct ByText;

impl Weighter<Box<str>, Arc<Document>> for ByText {
    fn weight(&self, text: &Box<str>, _: &Arc<Document>) -> u64 {
        1024 + text.len() as u64 * PARSED_FACTOR
    }
}

struct Document {
    operations: Vec<Arc<Operation>>,
}

/// One operation of a document, with the fragments it uses and nothing else.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) name: Option<Name>,
    /// Query, mutation or subscription.
    pub(super) ty: OperationType,
    /// The first 16 digits of the SHA-256 of the document.
    pub(super) hash: Arc<str>,
    /// Whether it selects `__schema` or `__type`.
    pub(super) introspects: bool,
    /// Whether it selects anything that is not introspection.
    pub(super) needs_viewer: bool,
    complexity: Complexity,
    /// Whether the engine has to merge selections of one field.
    merging: bool,
    executable: ExecutableDocument,
}

/// An operation that passed all checks, with its variables.
#[derive(Debug)]
pub struct Prepared {
    pub(super) operation: Arc<Operation>,
    /// Its complexity with these variables.
    pub(super) cost: u64,
    variables: Variables,
}

impl Prepared {
    /// The request for the schema that does not validate.
    pub(super) fn into_request(self) -> Request {
        let mut request = Request::new("").variables(self.variables);
        request.set_parsed_query(self.operation.executable.clone());
        if self.operation.merging { request.data(Merging) } else { request }
    }
}

impl Documents {
    /// For the schema with this SDL.
    ///
    /// # Panics
    /// When the SDL cannot be parsed: the program cannot start then.
    #[must_use]
    pub fn new(sdl: &str, limits: Limits) -> Self {
        let catalog = Catalog::read(sdl).expect("the schema's own SDL parses");
        let items = usize::try_from(CACHE_BYTES / (16 * 1024)).unwrap_or(1024);
        Self { catalog, limits, cache: Cache::with_weighter(items, CACHE_BYTES, ByText) }
    }

    /// The limits.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Checks a request. `strict` is the schema that validates; it is not executed.
    pub fn prepare(
        &self,
        strict: &impl Executor,
        query: &str,
        operation_name: Option<&str>,
        variables: Variables,
    ) -> Result<Prepared, Failure> {
        let document = match self.cache.get(query) {
            Some(document) => document,
            None => self.admit(strict, query)?,
        };
        let operation = document.choose(operation_name)?;
        let definition = operation.definition();
        let variables = variables::coerce(&self.catalog, definition, variables, self.limits.variable_depth)?;
        let cost = if operation.complexity.depends_on_variables {
            complexity(&operation.executable, definition, &self.catalog, &variables)
        } else {
            operation.complexity
        };
        if cost.value > self.limits.complexity {
            let message = format!(
                "The operation may return {} values (fields times page sizes); at most {} are allowed. Ask for smaller pages (`first`) or fewer lists inside each other.",
                cost.value, self.limits.complexity
            );
            return Err(Failure::limit(Code::QueryTooComplex, message));
        }
        Ok(Prepared { operation: Arc::clone(operation), cost: cost.value, variables })
    }

    /// Reads and checks a document that is seen for the first time.
    fn admit(&self, strict: &impl Executor, query: &str) -> Result<Arc<Document>, Failure> {
        lexer::check(query, &self.limits)?;
        let mut parsed = parse_query(query).map_err(|error| syntax_error(&error))?;
        let shapes = limits::check(&parsed, &self.catalog, &self.limits)?;
        for (_, operation) in parsed.operations.iter() {
            variables::check_definitions(&self.catalog, &operation.node)?;
        }
        wrap_typenames(&mut parsed);
        validate(strict, &parsed)?;
        let hash: Arc<str> = hash_prefix(query).into();
        let operations = parsed.operations.iter().zip(shapes);
        let operations =
            operations.map(|((name, operation), shape)| self.operation(&parsed, name, operation, shape, &hash));
        let document = Arc::new(Document { operations: operations.collect() });
        if query.len() <= MAX_CACHED_TEXT {
            self.cache.insert(query.into(), Arc::clone(&document));
        }
        Ok(document)
    }

    fn operation(
        &self,
        document: &ExecutableDocument,
        name: Option<&Name>,
        operation: &Positioned<OperationDefinition>,
        shape: Shape,
        hash: &Arc<str>,
    ) -> Arc<Operation> {
        let mut operation = operation.clone();
        if operation.node.ty == OperationType::Subscription {
            flatten(&mut operation.node.selection_set.node, &document.fragments);
        }
        let mut names = HashSet::new();
        spread_fragments(&operation.node.selection_set.node, &document.fragments, &mut names);
        let used = document.fragments.iter().filter(|(name, _)| names.contains(name.as_str()));
        let fragments = used.map(|(name, fragment)| (name.clone(), fragment.clone())).collect();
        let complexity = complexity(document, &operation.node, &self.catalog, &Variables::default());
        let merging = merges(&operation.node.selection_set.node, &document.fragments);
        Arc::new(Operation {
            name: name.cloned(),
            ty: operation.node.ty,
            hash: Arc::clone(hash),
            introspects: shape.introspects,
            needs_viewer: shape.needs_viewer,
            complexity,
            merging,
            executable: ExecutableDocument { operations: DocumentOperations::Single(operation), fragments },
        })
    }
}

impl Document {
    /// GraphQL specification, section 6.1, `GetOperation`.
    fn choose(&self, name: Option<&str>) -> Result<&Arc<Operation>, Failure> {
        match (name, self.operations.as_slice()) {
            (None, [only]) => Ok(only),
            (None, _) => Err(Failure::document(
                Code::OperationNameRequired,
                "The document has several operations: name the one to execute in `operationName`.",
                None,
            )),
            (Some(name), operations) => {
                let found = operations.iter().find(|operation| operation.name.as_deref() == Some(name));
                found.ok_or_else(|| {
                    let message = format!("The document has no operation named \"{name}\".");
                    Failure::document(Code::OperationNotFound, message, None)
                })
            }
        }
    }
}

impl Operation {
    fn definition(&self) -> &OperationDefinition {
        match &self.executable.operations {
            DocumentOperations::Single(operation) => &operation.node,
            DocumentOperations::Multiple(_) => unreachable!("operations are kept as single ones"),
        }
    }
}

/// The parser's message is a drawing of several lines; its last one says what was expected.
fn syntax_error(error: &parser::Error) -> Failure {
    let what = match error {
        parser::Error::Syntax { message, .. } => {
            let expected = message.lines().rev().find_map(|line| line.trim_start().strip_prefix("= "));
            expected.unwrap_or("unexpected text").to_owned()
        }
        other => other.to_string().trim_end_matches('.').to_owned(),
    };
    Failure::syntax(&what, error.positions().next())
}

/// The first 16 digits of the SHA-256.
pub(super) fn hash_prefix(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(8).fold(String::new(), |mut hex, byte| {
        let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or('0');
        hex.extend([digit(byte >> 4), digit(byte & 15)]);
        hex
    })
}

/// The names of the fragments that are reached from a selection set.
fn spread_fragments<'a>(
    set: &'a SelectionSet,
    fragments: &'a HashMap<Name, Positioned<FragmentDefinition>>,
    names: &mut HashSet<&'a str>,
) {
    for selection in &set.items {
        match &selection.node {
            Selection::Field(field) => spread_fragments(&field.node.selection_set.node, fragments, names),
            Selection::InlineFragment(inline) => {
                spread_fragments(&inline.node.selection_set.node, fragments, names);
            }
            Selection::FragmentSpread(spread) => {
                let name = spread.node.fragment_name.node.as_str();
                if names.insert(name)
                    && let Some(fragment) = fragments.get(name)
                {
                    spread_fragments(&fragment.node.selection_set.node, fragments, names);
                }
            }
        }
    }
}

/// Whether a field with a selection of its own stands twice in one place, under the same name in the answer. The document
/// has passed the limits, which bound it with all fragments expanded.
fn merges(set: &SelectionSet, fragments: &HashMap<Name, Positioned<FragmentDefinition>>) -> bool {
    let mut seen = HashSet::new();
    let mut todo = vec![set];
    while let Some(set) = todo.pop() {
        for selection in &set.items {
            match &selection.node {
                Selection::Field(field) if field.node.selection_set.node.items.is_empty() => {}
                Selection::Field(field) => {
                    let inner = &field.node.selection_set.node;
                    if !seen.insert(field.node.response_key().node.as_str()) || merges(inner, fragments) {
                        return true;
                    }
                }
                Selection::InlineFragment(inline) => todo.push(&inline.node.selection_set.node),
                Selection::FragmentSpread(spread) => {
                    let fragment = fragments.get(&spread.node.fragment_name.node);
                    todo.extend(fragment.map(|fragment| &fragment.node.selection_set.node));
                }
            }
        }
    }
    false
}

/// Puts the fields of fragments at the root of a subscription into the root: the engine looks for fields only.
fn flatten(set: &mut SelectionSet, fragments: &HashMap<Name, Positioned<FragmentDefinition>>) {
    let mut fields = Vec::new();
    for selection in std::mem::take(&mut set.items) {
        let mut inner = match selection.node {
            Selection::Field(_) => {
                fields.push(selection);
                continue;
            }
            Selection::InlineFragment(inline) => inline.node.selection_set.node,
            Selection::FragmentSpread(spread) => match fragments.get(&spread.node.fragment_name.node) {
                Some(fragment) => fragment.node.selection_set.node.clone(),
                None => continue,
            },
        };
        flatten(&mut inner, fragments);
        fields.append(&mut inner.items);
    }
    set.items = fields;
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use async_graphql::{EmptyMutation, Object, Schema, Subscription, ValidationMode};
    use futures_util::Stream;
    use serde_json::json;

    use super::*;

    struct Root;

    #[Object]
    impl Root {
        async fn number(&self, of: Option<i32>, many: Option<Vec<i32>>) -> i32 {
            of.unwrap_or(7) + many.unwrap_or_default().iter().sum::<i32>()
        }
        async fn root(&self) -> Self {
            Self
        }
    }

    struct Events;

    #[Subscription]
    impl Events {
        async fn events(&self) -> impl Stream<Item = i32> {
            futures_util::stream::iter([1, 2])
        }
    }

    type Toy = Schema<Root, EmptyMutation, Events>;

    struct Fixture {
        documents: Documents,
        strict: Toy,
        fast: Toy,
    }

    impl Fixture {
        fn new() -> Self {
            let build = |mode| Schema::build(Root, EmptyMutation, Events).validation_mode(mode).finish();
            let strict = build(ValidationMode::Strict);
            Self {
                documents: Documents::new(&strict.sdl(), Limits::default()),
                strict,
                fast: build(ValidationMode::Fast),
            }
        }

        fn prepare(&self, query: &str, variables: serde_json::Value) -> Result<Prepared, String> {
            let prepared = self.documents.prepare(&self.strict, query, None, Variables::from_json(variables));
            prepared.map_err(|failure| failure.code())
        }

        async fn run(&self, query: &str, variables: serde_json::Value) -> serde_json::Value {
            let prepared = self.prepare(query, variables).expect("it is valid");
            let response = self.fast.execute(prepared.into_request()).await;
            assert!(response.errors.is_empty(), "{:?}", response.errors);
            response.data.into_json().expect("JSON")
        }
    }

    #[tokio::test]
    async fn remembered_documents_are_executed_with_other_variables() {
        let fixture = Fixture::new();
        let query = "query($of: Int, $more: Boolean = true) { number(of: $of) t: __typename @include(if: $more) }";
        assert_eq!(fixture.run(query, json!({"of": 1})).await, json!({"number": 1, "t": "Root"}));
        assert_eq!(fixture.documents.cache.len(), 1);
        assert_eq!(fixture.run(query, json!({"of": 2, "more": false})).await, json!({"number": 2}));
        assert_eq!(fixture.prepare(query, json!({"of": "3"})).map(drop), Err("INVALID_VARIABLE".to_owned()));
        assert_eq!(fixture.documents.cache.len(), 1);
    }

    #[test]
    fn only_what_passed_is_remembered() {
        let fixture = Fixture::new();
        for bad in ["{", "{ nope }", "{ number(of: \"x\") }", "query($x: [Nope] = [1]) { number }"] {
            assert!(fixture.prepare(bad, json!({})).is_err(), "{bad}");
        }
        let long = format!("{{ number(many: [{}]) }}", "1 ".repeat(MAX_CACHED_TEXT / 4)) + &" ".repeat(MAX_CACHED_TEXT);
        assert!(fixture.prepare(&long, json!({})).is_ok());
        assert_eq!(fixture.documents.cache.len(), 0);
    }

    #[test]
    fn the_memory_is_bounded() {
        let cache = &Fixture::new().documents.cache;
        for number in 0..1_000 {
            let text = format!("{number} {}", "x".repeat(MAX_CACHED_TEXT - 10));
            cache.insert(text.into(), Arc::new(Document { operations: Vec::new() }));
        }
        assert!(!cache.is_empty() && cache.weight() <= CACHE_BYTES);
    }

    #[tokio::test]
    async fn subscriptions_may_use_fragments() {
        use futures_util::StreamExt as _;
        let fixture = Fixture::new();
        let query = "subscription { ... { ...f } } fragment f on Events { events }";
        let prepared = fixture.prepare(query, json!({})).expect("it is valid");
        let events: Vec<_> = fixture.fast.execute_stream(prepared.into_request()).collect().await;
        assert_eq!(events.len(), 2);
    }

    #[test]
    fn a_document_says_what_the_engine_has_to_merge() {
        let fixture = Fixture::new();
        for (query, merging) in [
            ("{ number n: number root { number } r: root { number } }", false),
            ("{ number number }", false),
            ("{ root { number } root { t: __typename } }", true),
            ("{ root { root { number } ... { root { number } } } }", true),
            ("{ root { root { number } ...f } } fragment f on Root { root { number } }", true),
            ("{ root { a: root { ...f } b: root { ...f } } } fragment f on Root { root { number } }", false),
        ] {
            let prepared = fixture.prepare(query, json!({})).expect("it is valid");
            assert_eq!(prepared.operation.merging, merging, "{query}");
        }
    }

    #[test]
    fn thirty_doubling_fragments_are_refused_at_once() {
        let fixture = Fixture::new();
        for times in [20, 25, 30, 100] {
            let fragments = (0..times).fold(String::new(), |all, i| {
                let next = i + 1;
                format!("{all} fragment f{i} on Root {{ ...f{next} ...f{next} }}")
            });
            let query = format!("{{ ...f0 }} {fragments} fragment f{times} on Root {{ number }}");
            let started = Instant::now();
            assert!(fixture.prepare(&query, json!({})).is_err());
            // A hundred times of what it takes, for busy machines and builds without optimization.
            assert!(started.elapsed() < Duration::from_millis(500), "{times}: {:?}", started.elapsed());
        }
    }
}
