//! The house: which module may use which. The order is written here and in `docs/ARCHITECTURE.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::coverage::sources;

/// The floors, from the top. A module uses what lies below it; only modules of one floor may use each other.
const FLOORS: &[&[&str]] = &[
    &["cli"],
    &["adopt"],
    &["seed"],
    &["verify"],
    &["data_rights"],
    &["transfer"],
    &["app"],
    &["jobs"],
    &["config"],
    &["http"],
    &["schema"],
    &["webhooks"],
    &["sync"],
    // The slices. A GraphQL graph is cyclic: a ticket has a customer, and a customer has tickets.
    &[
        "agents",
        "api_keys",
        "audit",
        "billing",
        "budgets",
        "client_keys",
        "customers",
        "entitlements",
        "escalations",
        "flags",
        "members",
        "metrics",
        "organizations",
        "platform",
        "refunds",
        "representatives",
        "sla",
        "support_access",
        "tickets",
        "webhook_events",
    ],
    &["graphql"],
    &["trail"],
    &["job_runs", "turns"],
    &["events"],
    &["rates"],
    &["auth"],
    &["db"],
    &["local_postgres"],
    &["access"],
    &["plans"],
    &["sql_enum"],
    &["json"],
    &["mail"],
    &["stripe"],
    &["network"],
    &["hex"],
    &["fingerprint"],
    &["sql_text"],
    &["unread"],
    &["id"],
    &["clock"],
    &["error"],
    &["telemetry"],
];

/// Macros stand at the root of the crate, wherever they are written.
const MACROS_OF_THE_KIT: &[&str] = &["columns", "entity", "enum_filter", "listing", "pg_enum", "relations", "shown"];

/// A use of one module in another.
#[derive(Debug)]
struct Arrow {
    from: String,
    to: String,
    place: String,
}

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

/// The names behind `crate::` in a piece of code: `crate::a::B` gives `a`, `crate::{a::B, c}` gives `a` and `c`.
fn names(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        // `my_crate::` is another crate.
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        let word = |text: &str| -> String { text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect() };
        let Some(group) = rest.strip_prefix('{') else {
            found.push(word(rest));
            continue;
        };
        let mut depth = 1;
        let mut item = String::new();
        for c in group.chars() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 || (depth == 1 && c == ',') {
                found.push(word(item.trim()));
                item.clear();
                if depth == 0 {
                    break;
                }
            } else {
                item.push(c);
            }
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

/// The arrows of a source file. Comments are left out: documentation may point anywhere.
fn arrows_of(module: &str, file: &str, source: &str) -> Vec<Arrow> {
    let lines: Vec<&str> =
        source.lines().map(|line| if line.trim_start().starts_with("//") { "" } else { line }).collect();
    let mut arrows = Vec::new();
    let mut n = 0;
    while n < lines.len() {
        let first = n;
        let mut statement = lines[n].to_owned();
        // A `use` may span lines.
        if lines[n].trim_start().trim_start_matches("pub ").starts_with("use ") {
            while !statement.contains(';') && n + 1 < lines.len() {
                n += 1;
                statement.push_str(lines[n].trim());
            }
        }
        for name in names(&statement) {
            let to = if MACROS_OF_THE_KIT.contains(&name.as_str()) { "graphql".to_owned() } else { name };
            arrows.push(Arrow { from: module.to_owned(), to, place: format!("{file}:{}", first + 1) });
        }
        n += 1;
    }
    arrows
}

fn arrows() -> Vec<Arrow> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut arrows = Vec::new();
    for path in files {
        let file = path.strip_prefix(&src).expect("below src").display().to_string();
        let module = file.split('/').next().expect("a name").trim_end_matches(".rs").to_owned();
        // The crate's roots name everything.
        if module == "lib" || module == "main" {
            continue;
        }
        let source = std::fs::read_to_string(&path).expect("a source");
        arrows.extend(arrows_of(&module, &format!("src/{file}"), &source).into_iter().filter(|a| a.from != a.to));
    }
    arrows
}

/// Arrows that point up, or to the side where that is not allowed.
fn wrong(arrows: &[Arrow]) -> Vec<String> {
    arrows
        .iter()
        .filter_map(|Arrow { from, to, place }| match (floor(from), floor(to)) {
            (None, _) => Some(format!("{place}: `{from}` has no floor: give it one in tests/it/floors.rs")),
            (_, None) => Some(format!("{place}: `{to}` has no floor: give it one in tests/it/floors.rs")),
            (Some(above), Some(below)) if above > below => {
                Some(format!("{place}: `{from}` uses `{to}`, which is above"))
            }
            _ => None,
        })
        .collect()
}

/// The largest set of modules that all reach each other.
fn largest_circle(arrows: &[Arrow]) -> BTreeSet<String> {
    let mut next: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for arrow in arrows {
        next.entry(&arrow.from).or_default().insert(&arrow.to);
        next.entry(&arrow.to).or_default();
    }
    let reach = |start: &str| -> BTreeSet<String> {
        let (mut seen, mut open) = (BTreeSet::new(), vec![start]);
        while let Some(module) = open.pop() {
            for to in &next[module] {
                if seen.insert((*to).to_owned()) {
                    open.push(to);
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&str, BTreeSet<String>> = next.keys().map(|module| (*module, reach(module))).collect();
    let circle = |module: &str| -> BTreeSet<String> {
        reached[module].iter().filter(|other| reached[other.as_str()].contains(module)).cloned().collect()
    };
    next.keys().map(|module| circle(module)).max_by_key(BTreeSet::len).unwrap_or_default()
}

#[test]
fn floors_arrows_point_down() {
    let wrong = wrong(&arrows());
    assert!(wrong.is_empty(), "the floors are in tests/it/floors.rs and docs/ARCHITECTURE.md:\n{}", wrong.join("\n"));
}

#[test]
fn floors_only_slices_form_a_circle() {
    let circle = largest_circle(&arrows());
    println!("the largest circle has {} modules: {circle:?}", circle.len());
    let slices = FLOORS.iter().max_by_key(|floor| floor.len()).expect("floors");
    assert!(circle.iter().all(|module| slices.contains(&module.as_str())), "{circle:?}");
}

#[test]
fn floors_see_an_arrow_up_and_its_line() {
    let source = "//! crate::cli is fine in a comment.\nuse crate::{\n    error::Error,\n    http::{Edge, serve},\n};\nlet x = my_crate::cli();\nfn f() { crate::cli::run() }\n";
    let arrows = arrows_of("db", "src/db/x.rs", source);
    assert_eq!(
        wrong(&arrows),
        ["src/db/x.rs:2: `db` uses `http`, which is above", "src/db/x.rs:7: `db` uses `cli`, which is above"]
    );
    assert_eq!(wrong(&arrows_of("db", "src/db/x.rs", "use crate::nowhere::X;")).len(), 1);
    let circle = largest_circle(&[("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")].map(|(from, to)| Arrow {
        from: from.into(),
        to: to.into(),
        place: String::new(),
    }));
    assert_eq!(circle.len(), 3);
}

/// The map in the documentation is the same as here.
#[test]
fn floors_are_those_of_the_map() {
    let map =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/ARCHITECTURE.md")).expect("the map");
    let (_, section) = map.split_once("## The floors").expect("the section");
    let section = section.split_once("\n## ").map_or(section, |(section, _)| section);
    let drawn: Vec<BTreeSet<&str>> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split_once(" |"))
        .map(|(rooms, _)| rooms.split(", ").map(|room| room.trim_matches('`')).collect::<BTreeSet<&str>>())
        .filter(|rooms| rooms.iter().any(|room| floor(room).is_some()))
        .collect();
    let floors: Vec<BTreeSet<&str>> = FLOORS.iter().map(|floor| floor.iter().copied().collect()).collect();
    assert_eq!(drawn, floors);
}
