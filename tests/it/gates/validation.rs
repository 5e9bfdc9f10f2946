//! Documents drawn from the schema, and broken ones made of them: graphql-js and this server must judge them alike, and
//! nothing may panic.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use async_graphql::{ServerError, Value, Variables};
use tenantry::http::graphql::{Documents, Limits};
use tenantry::schema::Schemas;
use tokio::process::Command;

use super::inputs::{ENGINE_WORDS, Shown, Slot, Typed, base, published};
use crate::packages::{npm, skipped, text};

/// Documents, unless `PROPTEST_CASES` says how many.
const DRAWN: u64 = 1_200;

/// How many cases a test of anything draws: few, or as many as `PROPTEST_CASES` says.
pub fn cases(few: u64) -> u64 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(few)
}

/// Draws documents; the same seed draws the same.
pub struct Draw<'a> {
    typed: &'a Typed,
    state: u64,
    variables: BTreeMap<String, String>,
    fragments: Vec<String>,
}

impl<'a> Draw<'a> {
    pub fn new(typed: &'a Typed, seed: u64) -> Self {
        let state = seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        Self { typed, state, variables: BTreeMap::new(), fragments: Vec::new() }
    }

    /// A number below `bound` (xorshift64*).
    fn below(&mut self, bound: usize) -> usize {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        usize::try_from(self.state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33).expect("31 bits") % bound
    }

    fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// A document: most are valid, and some are broken afterwards.
    pub fn document(&mut self) -> String {
        let (keyword, root) = match self.below(8) {
            0 => ("mutation", "Mutation"),
            1 => ("subscription", "SubscriptionRoot"),
            _ => ("query", "Query"),
        };
        let fields = if keyword == "subscription" { 1 } else { 1 + self.below(3) };
        let selection = self.selection(root, 4, fields);
        let declared: Vec<String> = self.variables.iter().map(|(name, ty)| format!("${name}: {ty}")).collect();
        let head = if declared.is_empty() { String::new() } else { format!("({})", declared.join(" ")) };
        let description = if self.one_in(10) { "\"What it is for.\" " } else { "" };
        let text = format!("{description}{keyword} A{head} {{ {selection} }} {}", self.fragments.join(" "));
        if self.one_in(3) { self.broken(&text) } else { text }
    }

    fn selection(&mut self, object: &str, depth: usize, count: usize) -> String {
        let fields = &self.typed.objects[object];
        let mut drawn = Vec::new();
        for _ in 0..count {
            let field = fields[self.below(fields.len())].clone();
            let Some(shown) = self.field(&field, depth) else { continue };
            drawn.push(match self.below(14) {
                0 => format!("... on {object} {{ {shown} }}"),
                1 => format!("... @include(if: {}) {{ {shown} }}", self.one_in(2)),
                2 if !object.starts_with("Sub") => {
                    let name = format!("F{}", self.fragments.len());
                    self.fragments.push(format!("fragment {name} on {object} {{ {shown} }}"));
                    format!("...{name}")
                }
                3 => format!("... on Node {{ id }} {shown}"),
                _ => shown,
            });
        }
        if drawn.is_empty() {
            drawn.push(if object == "SubscriptionRoot" {
                "ticketChanged { __typename }".into()
            } else {
                "__typename".into()
            });
        }
        drawn.join(" ")
    }

    fn field(&mut self, field: &Shown, depth: usize) -> Option<String> {
        let name = field.path.last().expect("a name").clone();
        // Few aliases, so that they meet.
        let alias = match self.below(8) {
            0 => "x: ",
            1 => "y: ",
            _ => "",
        };
        let mut arguments = Vec::new();
        for slot in &field.arguments {
            if slot.required || self.one_in(4) {
                arguments.push(format!("{}: {}", slot.name, self.argument(slot)));
            }
        }
        let arguments = if arguments.is_empty() { String::new() } else { format!("({})", arguments.join(" ")) };
        let directive = if self.one_in(12) { " @skip(if: false)" } else { "" };
        let below = if self.typed.objects.contains_key(&field.base) {
            if depth == 0 {
                return None;
            }
            let count = 1 + self.below(3);
            format!(" {{ {} }}", self.selection(&field.base, depth - 1, count))
        } else if field.base == "Node" {
            " { id ... on Ticket { subject } }".to_owned()
        } else {
            String::new()
        };
        Some(format!("{alias}{name}{arguments}{directive}{below}"))
    }

    fn argument(&mut self, slot: &Slot) -> String {
        if self.one_in(3) {
            let name = format!("v{}", self.variables.len());
            let mut ty = published(&slot.ty);
            match self.below(12) {
                0 => ty.truncate(ty.trim_end_matches('!').len()),
                1 if !ty.ends_with('!') => ty += "!",
                2 if base(&slot.ty) == "Int" => ty = format!("{} = 1", ty.trim_end_matches('!')),
                _ => {}
            }
            self.variables.insert(name.clone(), ty);
            return format!("${name}");
        }
        let edge = self.below(2);
        let value = self.typed.value(&slot.ty, edge, 1);
        let other = match self.below(40) {
            0 => Some("null"),
            1 => Some("NOPE"),
            2 => Some("[1]"),
            3 => Some("{a: 1}"),
            _ => None,
        };
        other.map_or_else(|| self.typed.literal(&slot.ty, &value), str::to_owned)
    }

    /// The text with one token changed.
    pub fn broken(&mut self, text: &str) -> String {
        const OTHERS: [&str; 24] = [
            "id",
            "Ticket",
            "$v0",
            "1",
            "\"a\"",
            "null",
            "true",
            "{",
            "}",
            "(",
            ")",
            "[",
            "]",
            "!",
            ":",
            "=",
            "@skip(if: true)",
            "...",
            "... on User { id }",
            "x: id",
            "01",
            "\"\"\"b\n  c\"\"\"",
            "on",
            "# c\n",
        ];
        let mut tokens: Vec<String> = Vec::new();
        for c in text.chars() {
            let word = |c: char| c.is_alphanumeric() || "_\"-.+".contains(c);
            match tokens.last_mut() {
                Some(last) if word(c) && last.chars().all(word) => last.push(c),
                _ => tokens.push(c.to_string()),
            }
        }
        tokens.retain(|token| token != " ");
        let (at, from) = (self.below(tokens.len()), self.below(tokens.len()));
        match self.below(5) {
            0 => {
                tokens.remove(at);
            }
            1 => tokens.insert(at, tokens[from].clone()),
            2 => tokens.swap(at, from),
            3 => OTHERS[self.below(OTHERS.len())].clone_into(&mut tokens[at]),
            _ => tokens.insert(at, OTHERS[self.below(OTHERS.len())].to_owned()),
        }
        tokens.join(" ").replace("$ ", "$").replace(". . .", "...")
    }
}

/// What this server says: `None` where it is stricter than the specification on purpose.
fn verdict(documents: &Documents, text: &str) -> Option<Result<(), String>> {
    let Err(failure) = documents.request(text, None, Variables::default()) else { return Some(Ok(())) };
    let message = failure.errors()[0].message.clone();
    for word in ENGINE_WORDS {
        assert!(!message.contains(word), "{text}: {message}");
    }
    let code = failure.code();
    // Limits; variables, which are looked at when the document is valid; scalars of ours, of which graphql-js knows the
    // name alone; what this edition says of subscriptions, which version 16 does not know yet.
    let stricter = code.starts_with("QUERY_")
        || code == "OPERATION_NAME_REQUIRED"
        || [
            "is not an id",
            "is not the id of",
            "a DateTime (",
            "a Decimal (",
            "a CurrencyCode (",
            "root of a subscription",
        ]
        .iter()
        .any(|ours| message.contains(ours));
    if code == "INVALID_VARIABLE" {
        return Some(Ok(()));
    }
    (!stricter).then_some(Err(message))
}

/// What graphql-js says of documents: of each the rules that it breaks and the first messages.
async fn judged(name: &str, sdl: &str, documents: &[String]) -> Result<Vec<Verdict>, String> {
    let modules = npm(&["graphql@16.15.0"]).await?;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = |name: &str| folder.join(name);
    std::fs::write(file("schema.graphql"), sdl).expect("the schema");
    std::fs::write(file("documents.json"), serde_json::to_string(documents).expect("JSON")).expect("the documents");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/audits/validate.cjs");
    let files = ["schema.graphql", "documents.json", "verdicts.json"].map(file);
    let output = Command::new("node").arg(script).arg(&modules).args(&files).output().await.expect("node runs");
    assert!(output.status.success(), "{}", text(&output));
    let verdicts = std::fs::read_to_string(file("verdicts.json")).expect("the verdicts");
    Ok(serde_json::from_str(&verdicts).expect("JSON"))
}

#[derive(serde::Deserialize)]
struct Verdict {
    /// `None`: the parser refuses the document.
    rules: Option<BTreeSet<String>>,
    messages: Vec<String>,
}

#[tokio::test]
async fn documents_are_judged_as_graphql_js_judges_them() {
    let typed = Typed::read();
    let schemas = Schemas::build();
    let documents = Documents::new(&schemas.typed_sdl, Limits::default(), true);
    let drawn: Vec<String> = (0..cases(DRAWN)).map(|seed| Draw::new(&typed, seed).document()).collect();
    let verdicts = match judged("judged", &schemas.sdl, &drawn).await {
        Ok(verdicts) => verdicts,
        Err(why) => return skipped("the comparison with graphql-js", &why),
    };
    let (mut counts, mut wrong) = (HashMap::<&str, u64>::new(), Vec::new());
    for (text, Verdict { messages: theirs, .. }) in drawn.iter().zip(&verdicts) {
        let Some(ours) = verdict(&documents, text) else {
            *counts.entry("stricter").or_default() += 1;
            continue;
        };
        *counts.entry(if ours.is_ok() { "valid" } else { "invalid" }).or_default() += 1;
        if ours.is_ok() != theirs.is_empty() {
            wrong.push(format!("graphql-js: {theirs:?}\n  here: {ours:?}\n  {text}"));
        }
    }
    println!("{} documents: {counts:?}", drawn.len());
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong[..wrong.len().min(10)].join("\n"));
    assert!(counts["valid"] * 6 > cases(DRAWN) && counts["invalid"] * 6 > cases(DRAWN), "{counts:?}");
}

/// A schema in which every rule can be broken.
const LIBRARY: &str = "
    type Query { shelf(id: ID, where: ShelfWhere): Shelf items(first: Int! = 10, kinds: [Kind!]): [Item!] item(id: ID!): Item
                 search(by: By!): [Found] reader: Reader count(of: Kind, over: Float, open: Boolean): Int }
    type Mutation { lend(input: LendInput!): Loan }
    type Subscription { lent(shelf: ID): Loan returned: Loan }
    interface Item { id: ID! title: String shelf: Shelf }
    interface Printed implements Item { id: ID! title: String shelf: Shelf pages(of: Int): Int }
    type Book implements Printed & Item { id: ID! title: String shelf: Shelf pages(of: Int): Int author: Reader isbn: String }
    type Map implements Printed & Item { id: ID! title: String shelf: Shelf pages(of: Int): Int scale: Float isbn: Int }
    type Film implements Item { id: ID! title: String shelf: Shelf minutes: Int! isbn: String! }
    union Found = Book | Film | Reader
    type Reader { id: ID! name(short: Boolean): String title: Boolean loans: [Loan!]! }
    type Shelf { id: ID! name(upper: Boolean = false): String items: [Item] }
    type Loan { id: ID! book: Book reader: Reader due: String }
    enum Kind { BOOK MAP FILM }
    input ShelfWhere { name: String kind: Kind = BOOK all: [ShelfWhere!] exact: Boolean! = true }
    input By @oneOf { title: String shelf: ID }
    input LendInput { book: ID! days: Int! = 14 note: String }
    directive @marked(n: Int) on FIELD
    directive @again(n: Int!) on FIELD
    directive @asked on QUERY | MUTATION | VARIABLE_DEFINITION
    directive @spread on FRAGMENT_SPREAD | INLINE_FRAGMENT | FRAGMENT_DEFINITION";

/// Documents over it, by what they are about.
const OVER_LIBRARY: &[&str] = &[
    // Fields, and what has none.
    "{ reader { id name loans { due } } }",
    "{ reader { nick } }",
    "{ item(id: 1) { pages } }",
    "{ item(id: 1) { ... on Printed { pages scale } } }",
    "{ search(by: { title: \"a\" }) { id } }",
    "{ search(by: { title: \"a\" }) { __typename ... on Reader { id } } }",
    "{ nothing { nobody { nowhere } } }",
    "{ reader { id { value } } }",
    "{ reader }",
    "{ items { shelf } count { of } }",
    "{ __schema { types { name } } __type(name: \"Book\") { name nothing } }",
    // Arguments.
    "{ item { id } }",
    "{ item(id: 1 id: 2) { id } }",
    "{ item(id: 1, isbn: 2) { id } }",
    "{ items(first: null) { id } }",
    "{ items { id } }",
    "{ reader { name(long: true) } }",
    "{ reader @marked(m: 1) { id } }",
    "{ reader @again { id } }",
    "{ reader @skip { id } }",
    // Values.
    "{ count(of: BOOKS) }",
    "{ count(of: \"BOOK\") }",
    "{ count(of: BOOK, over: 1, open: true) }",
    "{ count(over: \"1\") }",
    "{ count(open: 1) }",
    "{ items(first: 1.5) { id } }",
    "{ items(first: 4294967296) { id } }",
    "{ items(kinds: BOOK) { id } }",
    "{ items(kinds: [BOOK, null]) { id } }",
    "{ items(kinds: [BOOK, [MAP]]) { id } }",
    "{ item(id: 1.5) { id } }",
    "{ item(id: BOOK) { id } }",
    "{ shelf(where: { name: 1 }) { id } }",
    "{ shelf(where: { nam: \"a\" }) { id } }",
    "{ shelf(where: { exact: null }) { id } }",
    "{ shelf(where: { all: { kind: FILM } }) { id } }",
    "{ shelf(where: \"all\") { id } }",
    "{ search(by: {}) { __typename } }",
    "{ search(by: { title: \"a\", shelf: 1 }) { __typename } }",
    "{ search(by: { title: null }) { __typename } }",
    "mutation { lend(input: { days: 3 }) { id } }",
    "mutation { lend(input: { book: 1, days: null }) { id } }",
    "mutation { lend(input: { book: 1, book: 2 }) { id } }",
    // Variables.
    "query($id: ID!) { item(id: $id) { id } }",
    "query($id: ID) { item(id: $id) { id } }",
    "query($id: ID = 4) { item(id: $id) { id } }",
    "query($id: ID = null) { item(id: $id) { id } }",
    "query($id: String!) { item(id: $id) { id } }",
    "query($id: ID! $id: ID!) { item(id: $id) { id } }",
    "query { item(id: $id) { id } }",
    "query($id: ID!) { reader { id } }",
    "query($n: Int) { items(first: $n) { id } }",
    "query($n: Int!) { items(first: $n) { id } }",
    "query($k: [Kind]) { items(kinds: $k) { id } }",
    "query($k: Kind!) { items(kinds: [$k]) { id } }",
    "query($k: Kind) { items(kinds: [$k]) { id } }",
    "query($t: String!) { search(by: { title: $t }) { __typename } }",
    "query($e: Boolean) { shelf(where: { exact: $e }) { id } }",
    "query($b: Book) { reader { id } }",
    "query($b: Nothing) { count(of: $b) }",
    "query($n: Int = \"one\") { items(first: $n) { id } }",
    "query($w: ShelfWhere = { exact: 1 }) { shelf(where: $w) { id } }",
    "query A($id: ID!) { ...F } fragment F on Query { item(id: $id) { id } }",
    "query A { ...F } fragment F on Query { item(id: $id) { id } }",
    "query A($id: ID!) { ...F } query B { ...F } fragment F on Query { item(id: $id) { id } }",
    "query A($id: Int!) { ...F } fragment F on Query { ...G } fragment G on Query { item(id: $id) { id } }",
    // Directives.
    "query @asked($n: Int @asked) { items(first: 1) @marked(n: $n) { id } }",
    "{ reader @nowhere { id } }",
    "{ reader @asked { id } }",
    "query @marked { reader { id } }",
    "{ reader @marked @marked { id } }",
    "{ reader @again(n: 1) @again(n: 2) { id } }",
    "{ ...F @spread } fragment F on Query @spread { reader { id } }",
    "{ ...F @marked } fragment F on Query @marked { reader { id } }",
    "{ ... @spread { reader { id } } ... @skip(if: true) { count } }",
    "query($s: Boolean) { reader @include(if: $s) { id } }",
    // Fragments.
    "{ ...Nowhere }",
    "{ reader { id } } fragment F on Reader { id }",
    "{ ...F ...F } fragment F on Query { count } fragment F on Query { reader { id } }",
    "{ ...F } fragment F on Query { ...G } fragment G on Query { ...F }",
    "{ ...F } fragment F on Nothing { id }",
    "{ ...F } fragment F on Kind { id }",
    "{ ... on ShelfWhere { name } }",
    "{ items { ... on Reader { id } } }",
    "{ items { ... on Found { ... on Book { isbn } } } }",
    "{ search(by: { shelf: 1 }) { ... on Map { scale } ... on Printed { pages } } }",
    "{ reader { ...F } } fragment F on Item { id }",
    "{ items { ...F } } fragment F on Film { minutes }",
    // Fields that meet.
    "{ a: count a: reader { id } }",
    "{ count(over: 1) count(over: 2) }",
    "{ count(over: 1) count(over: 1) }",
    "{ count count(over: 2) }",
    "{ items { x: id x: title } }",
    "{ items { ... on Book { x: title } ... on Film { x: id } } }",
    "{ items { ... on Book { isbn } ... on Map { isbn } } }",
    "{ items { ... on Book { isbn } ... on Film { isbn } } }",
    "{ items { ... on Book { x: author { id } } ... on Map { x: shelf { id } } } }",
    "{ items { ... on Book { x: author { y: id } } ... on Map { x: shelf { y: name } } } }",
    "{ search(by: { shelf: 1 }) { ... on Book { title } ... on Reader { title } } }",
    "{ ...F ...G } fragment F on Query { x: count } fragment G on Query { x: count(over: 1) }",
    "{ ...F ...G } fragment F on Query { reader { x: id } } fragment G on Query { reader { x: name } }",
    "{ reader { name(short: true) } reader { loans { id } name } }",
    // Operations.
    "query A { count } query A { reader { id } }",
    "{ count } query B { count }",
    "query A { count } mutation B { lend(input: { book: 1 }) { id } }",
    "mutation { lend }",
    "subscription { lent { id } }",
    "subscription { lent { id } returned { id } }",
    "subscription { ...F } fragment F on Subscription { lent { id } returned { id } }",
    "type Mine { id: ID } query { count }",
    "{ count ",
    "query A($a: ) { count }",
];

/// The rules whose documents are refused before there are rules.
const EARLIER: [&str; 8] = [
    "ExecutableDefinitions",
    "KnownFragmentNames",
    "LoneAnonymousOperation",
    "MaxIntrospectionDepth",
    "NoFragmentCycles",
    "UniqueFragmentNames",
    "UniqueInputFieldNames",
    "UniqueOperationNames",
];

/// The rules that this server finds broken; `None` when it refuses before it comes to them.
fn broken(documents: &Documents, text: &str) -> Option<BTreeSet<String>> {
    let Err(failure) = documents.request(text, None, Variables::default()) else { return Some(BTreeSet::new()) };
    // The document is good: what is asked of it is not.
    if ["INVALID_VARIABLE", "OPERATION_NAME_REQUIRED"].contains(&failure.code().as_str()) {
        return Some(BTreeSet::new());
    }
    let name = |error: &ServerError| match error.extensions.as_ref()?.get("rule")? {
        Value::String(name) => Some(name.clone()),
        _ => None,
    };
    failure.errors().iter().map(name).collect()
}

#[tokio::test]
async fn documents_break_the_rules_that_they_break_in_graphql_js() {
    let texts: Vec<String> = OVER_LIBRARY.iter().map(|&text| text.to_owned()).collect();
    let verdicts = match judged("judged-rules", LIBRARY, &texts).await {
        Ok(verdicts) => verdicts,
        Err(why) => return skipped("the comparison with graphql-js", &why),
    };
    let documents = Documents::new(LIBRARY, Limits::default(), true);
    let (mut seen, mut wrong) = (BTreeSet::new(), Vec::new());
    for (text, verdict) in texts.iter().zip(&verdicts) {
        let ours = broken(&documents, text);
        let agrees = match (&verdict.rules, &ours) {
            (None, ours) => ours.is_none(),
            // Refused by the parser or the limits, which end at the first fault.
            (Some(theirs), None) => theirs.iter().any(|rule| EARLIER.contains(&rule.as_str())),
            (Some(theirs), Some(ours)) => {
                // Conflicts are looked for in what has no other fault.
                let others = |rules: &BTreeSet<String>| {
                    let conflict = "OverlappingFieldsCanBeMerged";
                    rules.iter().filter(|rule| *rule != conflict).cloned().collect::<BTreeSet<_>>()
                };
                others(ours) == others(theirs) && (!others(theirs).is_empty() || ours == theirs)
            }
        };
        seen.extend(verdict.rules.iter().flatten().cloned());
        if !agrees {
            wrong.push(format!("{:?} there, {ours:?} here: {text}", verdict.rules));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), texts.len(), wrong.join("\n"));
    assert_eq!(seen.len(), 26, "every rule that there is to break is broken: {seen:?}");
}
