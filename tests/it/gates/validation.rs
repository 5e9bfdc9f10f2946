//! Documents drawn from the schema, and broken ones made of them: graphql-js and this server must judge them alike, and
//! nothing may panic.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use async_graphql::Variables;
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

#[tokio::test]
async fn documents_are_judged_as_graphql_js_judges_them() {
    let modules = match npm(&["graphql@16.15.0"]).await {
        Ok(modules) => modules,
        Err(why) => return skipped("the comparison with graphql-js", &why),
    };
    let typed = Typed::read();
    let schemas = Schemas::build();
    let documents = Documents::new(&schemas.typed_sdl, Limits::default(), true);
    let drawn: Vec<String> = (0..cases(DRAWN)).map(|seed| Draw::new(&typed, seed).document()).collect();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("judged");
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = |name: &str| folder.join(name);
    std::fs::write(file("schema.graphql"), &schemas.sdl).expect("the schema");
    std::fs::write(file("documents.json"), serde_json::to_string(&drawn).expect("JSON")).expect("the documents");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/audits/validate.cjs");
    let files = ["schema.graphql", "documents.json", "verdicts.json"].map(file);
    let output = Command::new("node").arg(script).arg(&modules).args(&files).output().await.expect("node runs");
    assert!(output.status.success(), "{}", text(&output));
    let verdicts = std::fs::read_to_string(file("verdicts.json")).expect("the verdicts");
    let verdicts: Vec<Vec<String>> = serde_json::from_str(&verdicts).expect("JSON");
    let (mut counts, mut wrong) = (HashMap::<&str, u64>::new(), Vec::new());
    for (text, theirs) in drawn.iter().zip(&verdicts) {
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
