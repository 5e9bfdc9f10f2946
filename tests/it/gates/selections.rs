//! Lists are written without the engine where that can be (`graphql/rows.rs`). Whoever reads the answer must not be able to
//! tell: for selections drawn from the whole schema, both ways give the same text, errors and their paths included.

use tenantry::access::MemberRole;

use super::member;
use super::sdl::{Field, Sdl};
use crate::support::TestApp;

/// Selections per viewer.
const DRAWN: u64 = 200;

/// Makes the engine resolve every list, and changes nothing else: two selections of one field have to be merged.
const MERGED: &str = "viewer { role } viewer { role }";

/// Draws selections; the same seed draws the same.
struct Draw<'a> {
    sdl: &'a Sdl,
    state: u64,
    aliases: usize,
    fragments: Vec<String>,
}

impl Draw<'_> {
    /// A number below `bound` (xorshift64*).
    fn below(&mut self, bound: usize) -> usize {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        let drawn = self.state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(drawn).expect("31 bits") % bound
    }

    fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// What a selection of this type asks for, without its braces.
    fn selection(&mut self, type_name: &str, depth: usize) -> String {
        let fields = &self.sdl.objects[type_name];
        let mut drawn = Vec::new();
        let mut objects = Vec::new();
        for _ in 0..=self.below(7) {
            let field = &fields[self.below(fields.len())];
            if field.arguments.iter().any(|argument| argument.required) {
                continue;
            }
            let text = self.field(field, depth, &mut objects);
            let text = match (text, self.below(12)) {
                (None, _) => continue,
                (Some(text), 0) => format!("... {{ {text} }}"),
                (Some(text), 1) => format!("... on {type_name} {{ {text} }}"),
                (Some(text), 2) => format!("... @include(if: {}) {{ {text} }}", self.one_in(2)),
                (Some(text), 3) => {
                    let name = format!("F{}", self.fragments.len());
                    self.fragments.push(format!("fragment {name} on {type_name} {{ {text} }}"));
                    format!("...{name}")
                }
                (Some(text), _) => text,
            };
            drawn.push(text);
        }
        if self.one_in(4) {
            drawn.push("__typename".into());
        }
        if self.one_in(6) && fields.iter().any(|field| field.name == "id") && !type_name.starts_with("Viewer") {
            drawn.push("... on Node { id __typename }".into());
        }
        if drawn.is_empty() {
            drawn.push("kind: __typename".into());
        }
        drawn.join(" ")
    }

    /// A field with its alias, directive and selection. `objects` are the names that are taken by fields with selections.
    fn field(&mut self, field: &Field, depth: usize, objects: &mut Vec<String>) -> Option<String> {
        let is_object = self.sdl.objects.contains_key(&field.base);
        if !is_object && !self.sdl.enums.contains_key(&field.base) && field.base == "Node" {
            return Some(format!("{} {{ id __typename }}", self.alias(&field.name)));
        }
        let directive = match self.below(10) {
            0 => format!(" @skip(if: {})", self.one_in(2)),
            1 => format!(" @include(if: {})", self.one_in(2)),
            _ => String::new(),
        };
        if !is_object {
            let name = if self.one_in(5) { self.alias(&field.name) } else { field.name.clone() };
            return Some(format!("{name}{directive}"));
        }
        if depth == 0 {
            return None;
        }
        let name = if objects.contains(&field.name) { self.alias(&field.name) } else { field.name.clone() };
        objects.push(field.name.clone());
        let arguments = if field.arguments.iter().any(|argument| argument.name == "first") { "(first: 3)" } else { "" };
        Some(format!("{name}{arguments}{directive} {{ {} }}", self.selection(&field.base, depth - 1)))
    }

    fn alias(&mut self, field: &str) -> String {
        self.aliases += 1;
        format!("a{}: {field}", self.aliases)
    }
}

/// The text of an answer, without what differs between requests.
async fn text(app: &TestApp, token: &str, query: &str) -> String {
    let request = app.client().post(format!("{}/graphql", app.base_url())).bearer_auth(token);
    let response = request.header("X-Request-Id", "same").json(&serde_json::json!({ "query": query })).send().await;
    response.expect("a response").text().await.expect("text")
}

#[tokio::test]
async fn selections_give_the_same_text_with_and_without_the_engine() {
    let app = TestApp::start().await;
    let sdl = Sdl::read();
    let organization = sdl.objects["Organization"].iter();
    let lists: Vec<&Field> = organization.filter(|field| field.base.ends_with("Connection")).collect();
    for role in [MemberRole::Owner, MemberRole::Viewer] {
        let token = member(&app, role).await;
        let (mut answered, mut refused) = (0, 0);
        for seed in 1..=DRAWN {
            let mut source =
                Draw { sdl: &sdl, state: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15), aliases: 0, fragments: Vec::new() };
            let list = lists[source.below(lists.len())];
            let row = list.base.strip_suffix("Connection").expect("a connection");
            let first = 1 + source.below(5);
            let which = source.below(3);
            let mut shown = Vec::new();
            if which > 0 {
                shown.push(format!("nodes {{ {} }}", source.selection(row, 3)));
            }
            if which < 2 {
                shown.push(format!("edges {{ node {{ {} }} c: cursor __typename }}", source.selection(row, 3)));
            }
            let list = format!("{}(first: {first}) {{ {} }}", list.name, shown.join(" "));
            let fragments = source.fragments.join(" ");
            let plain =
                text(&app, &token, &format!("{fragments} {{ organization {{ {list} }} viewer {{ role }} }}")).await;
            let engine = text(&app, &token, &format!("{fragments} {{ organization {{ {list} }} {MERGED} }}")).await;
            assert_eq!(plain, engine, "seed {seed}: {fragments} {list}");
            answered += u64::from(plain.starts_with("{\"data\""));
            // Who draws counts neither aliases nor directives.
            let may = role != MemberRole::Owner
                || plain.starts_with("{\"data\"")
                || plain.contains("QUERY_TOO_MANY_ALIASES")
                || plain.contains("QUERY_TOO_MANY_DIRECTIVES");
            assert!(may, "an owner may see everything: {plain}: {list}");
            refused += u64::from(plain.starts_with("{\"errors\""));
        }
        println!("{role:?}: {answered} answers without errors, {refused} with");
        assert!(role != MemberRole::Owner || answered * 20 > DRAWN * 19, "nearly all are within the limits");
        assert!(role != MemberRole::Viewer || refused > 0, "a viewer must have met what it may not see");
    }
}
