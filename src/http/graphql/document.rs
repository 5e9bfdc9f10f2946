//! From the text of a request to something that may be executed: parse, limit, validate, choose, coerce.
//!
//! All but the last two depend on the text alone and are remembered by its SHA-256. Only documents that passed are
//! remembered, so the memory holds what clients really use, and what is remembered is executed without validating it
//! again. It is also what automatic persisted queries are found in.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_graphql::parser::types::{
    DocumentOperations, ExecutableDocument, FragmentDefinition, OperationDefinition, OperationType, Selection,
    SelectionSet,
};
use async_graphql::{Name, Positioned, Request, Variables};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use sha2::{Digest as _, Sha256};

use super::catalog::Catalog;
use super::complexity::{Complexity, complexity};
use super::failure::Failure;
use super::limits::{self, Limits, Shape};
use super::parse::parse;
use super::variables::IdUse;
use super::{lexer, rules, variables};
use crate::error::Code;
use crate::graphql::rows::Merging;
use crate::hex::hex;

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
    cache: Cache<Key, Arc<Document>, ByLength>,
}

/// The SHA-256 of a document's text.
pub(super) type Key = [u8; 32];

/// What a text is remembered by.
pub(super) fn key(text: &str) -> Key {
    Sha256::digest(text.as_bytes()).into()
}

#[derive(Clone)]
struct ByLength;

impl Weighter<Key, Arc<Document>> for ByLength {
    fn weight(&self, _: &Key, document: &Arc<Document>) -> u64 {
        1024 + document.length as u64 * PARSED_FACTOR
    }
}

/// A document that may be executed.
#[derive(Debug)]
pub(super) struct Document {
    operations: Vec<Arc<Operation>>,
    /// Bytes of its text.
    length: usize,
    /// Whether a client has registered it as an automatic persisted query: only then its hash stands for it. Otherwise a
    /// hash would tell whether somebody else has sent a certain text.
    registered: AtomicBool,
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
    /// Variables that stand where ids of one type are expected.
    ids: Vec<IdUse>,
    executable: ExecutableDocument,
}

/// An operation that passed all checks, with its variables.
#[derive(Debug)]
pub struct Prepared {
    pub(super) operation: Arc<Operation>,
    /// What it costs at most: `complexity`.
    pub(super) cost: u64,
    variables: Variables,
    /// Whether the document came from a manifest.
    pub(super) is_trusted: bool,
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
    /// For the schema with this SDL. `suggestions` puts "Did you mean" into errors, which tells names to those who guess.
    ///
    /// # Panics
    /// When the SDL cannot be parsed: the program cannot start then.
    #[must_use]
    pub fn new(sdl: &str, limits: Limits, suggestions: bool) -> Self {
        let catalog = Catalog::read(sdl, suggestions).expect("the schema's own SDL parses");
        let items = usize::try_from(CACHE_BYTES / (16 * 1024)).unwrap_or(1024);
        Self { catalog, limits, cache: Cache::with_weighter(items, CACHE_BYTES, ByLength) }
    }

    /// The limits.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The document with this text, remembered from before or checked now. `key` is that of the text.
    ///
    /// # Errors
    /// What is wrong with the document.
    pub(super) fn document(&self, text: &str, key: &Key) -> Result<Arc<Document>, Failure> {
        if let Some(document) = self.cache.get(key) {
            return Ok(document);
        }
        let document = Arc::new(self.check(text, key)?);
        self.remember(key, &document);
        Ok(document)
    }

    fn remember(&self, key: &Key, document: &Arc<Document>) {
        if document.length <= MAX_CACHED_TEXT {
            self.cache.insert(*key, Arc::clone(document));
        }
    }

    /// Lets a document be asked for by its hash alone, for as long as it is remembered.
    pub(super) fn register(document: &Document) {
        document.registered.store(true, Ordering::Relaxed);
    }

    /// The document that was registered under this hash.
    pub(super) fn registered(&self, key: &Key) -> Option<Arc<Document>> {
        self.cache.get(key).filter(|document| document.registered.load(Ordering::Relaxed))
    }

    /// Checks a whole request as it is checked before it is executed.
    ///
    /// # Errors
    /// What is wrong with its document, its choice of an operation, or its variables.
    pub fn request(&self, text: &str, operation_name: Option<&str>, variables: Variables) -> Result<Prepared, Failure> {
        self.prepare(&*self.document(text, &key(text))?, operation_name, variables)
    }

    /// Chooses the operation of a document and coerces its variables.
    ///
    /// # Errors
    /// What is wrong with the choice or the variables.
    pub(super) fn prepare(
        &self,
        document: &Document,
        operation_name: Option<&str>,
        variables: Variables,
    ) -> Result<Prepared, Failure> {
        let operation = document.choose(operation_name)?;
        let definition = operation.definition();
        let variables =
            variables::coerce(&self.catalog, definition, &operation.ids, variables, self.limits.variable_depth)?;
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
        Ok(Prepared { operation: Arc::clone(operation), cost: cost.value, variables, is_trusted: false })
    }

    /// Reads and checks a document, and does not remember it.
    pub(super) fn check(&self, query: &str, key: &Key) -> Result<Document, Failure> {
        let text = lexer::check(query, &self.limits)?;
        let parsed = parse(&text)?;
        let shapes = limits::check(&parsed, &self.catalog, &self.limits)?;
        let ids = rules::check(&parsed, &self.catalog)?;
        let hash: Arc<str> = hex(&key[..8]).into();
        let operations = parsed.operations.iter().zip(shapes).zip(ids);
        let operations = operations
            .map(|(((name, operation), shape), ids)| self.operation(&parsed, name, operation, (shape, ids), &hash));
        Ok(Document { operations: operations.collect(), length: query.len(), registered: AtomicBool::new(false) })
    }

    fn operation(
        &self,
        document: &ExecutableDocument,
        name: Option<&Name>,
        operation: &Positioned<OperationDefinition>,
        (shape, ids): (Shape, Vec<IdUse>),
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
            ids,
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

/// Puts the fields of fragments at the root of a subscription into the root: the engine looks for fields only, and would
/// make a stream of each. They are one field (`rules`), which selects what all of them select.
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
    fields.dedup_by(|next, first| match (&mut next.node, &mut first.node) {
        (Selection::Field(next), Selection::Field(first)) => {
            let more = std::mem::take(&mut next.node.selection_set.node.items);
            first.node.selection_set.node.items.extend(more);
            true
        }
        _ => false,
    });
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
        fast: Toy,
    }

    impl Fixture {
        fn new() -> Self {
            let fast = Schema::build(Root, EmptyMutation, Events).validation_mode(ValidationMode::Fast).finish();
            Self { documents: Documents::new(&fast.sdl(), Limits::default(), true), fast }
        }

        fn prepare(&self, query: &str, variables: serde_json::Value) -> Result<Prepared, String> {
            let document = self.document(query)?;
            let prepared = self.documents.prepare(&document, None, Variables::from_json(variables));
            prepared.map_err(|failure| failure.code())
        }

        fn document(&self, query: &str) -> Result<Arc<Document>, String> {
            self.documents.document(query, &key(query)).map_err(|failure| failure.code())
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
    fn only_registered_documents_are_found_by_their_hash() {
        let fixture = Fixture::new();
        let text = "{ number }";
        assert!(fixture.documents.registered(&key(text)).is_none());
        let document = fixture.document(text).expect("it is valid");
        assert!(fixture.documents.registered(&key(text)).is_none(), "whoever sends a text does not register it");
        Documents::register(&document);
        assert!(fixture.documents.registered(&key(text)).is_some());
        assert!(fixture.documents.registered(&key("{ number } ")).is_none());
    }

    /// Whoever registers a hundred thousand documents, short or long, takes no more memory than is meant for all.
    #[test]
    fn the_memory_is_bounded() {
        let documents = Fixture::new().documents;
        let numbered = |number: usize| {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&number.to_le_bytes());
            key
        };
        for number in 0..100_000_usize {
            let length = if number % 2 == 0 { 20 } else { MAX_CACHED_TEXT - 10 };
            let document = Document { operations: Vec::new(), length, registered: AtomicBool::new(true) };
            documents.remember(&numbered(number), &Arc::new(document));
        }
        assert!(!documents.cache.is_empty() && documents.cache.weight() <= CACHE_BYTES);
        assert!(documents.cache.len() <= 32 * 1024, "{}", documents.cache.len());
        let found = (0..100_000).filter(|number| documents.registered(&numbered(*number)).is_some()).count();
        assert!(found > 0 && found == documents.cache.len(), "{found}");
    }

    #[tokio::test]
    async fn subscriptions_may_use_fragments() {
        use futures_util::StreamExt as _;
        let fixture = Fixture::new();
        let query = "subscription { ... { ...f } } fragment f on Events { events }";
        let prepared = fixture.prepare(query, json!({})).expect("it is valid");
        let events: Vec<_> = fixture.fast.execute_stream(prepared.into_request()).collect().await;
        assert_eq!(events.len(), 2);
        let twice = fixture.prepare("subscription { events ...f } fragment f on Events { events }", json!({}));
        let events: Vec<_> = fixture.fast.execute_stream(twice.expect("it is valid").into_request()).collect().await;
        assert_eq!(events.len(), 2);
        for two in
            ["subscription { events e: events }", "subscription { events ...f } fragment f on Events { e: events }"]
        {
            assert!(fixture.prepare(two, json!({})).is_err(), "{two}");
        }
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
