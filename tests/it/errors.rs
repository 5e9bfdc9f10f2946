//! The error codes: one enum, one page, and no code that is written anywhere else.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use tenantry::error::Code;

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("a file of the repository")
}

/// The sources apart from the enum itself and from tests: path below `src`, text up to the first test module.
fn sources() -> Vec<(String, String)> {
    fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                collect(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files
        .iter()
        .filter(|file| !file.ends_with("error/code.rs") && !file.ends_with("tests.rs"))
        .map(|file| {
            let text = std::fs::read_to_string(file).expect("a source");
            let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default().to_owned();
            (file.strip_prefix(&root).expect("below src").display().to_string(), text)
        })
        .collect()
}

/// The values of `UserErrorCode` in the committed schema.
fn user_error_codes() -> BTreeSet<String> {
    let schema = read("schema.graphql");
    let (_, from) = schema.split_once("enum UserErrorCode {").expect("the enum");
    let (body, _) = from.split_once("\n}").expect("its end");
    let is_value = |line: &str| !line.is_empty() && line.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    body.lines().map(str::trim).filter(|line| is_value(line)).map(str::to_owned).collect()
}

#[test]
fn errors_page_has_every_code_and_no_other() {
    let rows: Vec<String> =
        read("docs/ERRORS.md").lines().filter(|line| line.starts_with("| `")).map(str::to_owned).collect();
    let expected: Vec<String> =
        Code::ALL.iter().map(|code| format!("| `{code}` | {} {} |", code.meaning(), code.remedy())).collect();
    assert_eq!(rows, expected, "docs/ERRORS.md and src/error/code.rs differ");
}

#[test]
fn error_codes_are_written_in_the_enum_alone() {
    // The status of a representative and of a reservation, and the placeholder of an option.
    const NOT_CODES: &[(&str, &str)] =
        &[("representatives/mod.rs", "BUSY"), ("budgets/model.rs", "EXPIRED"), ("cli/adopt.rs", "FILE")];
    let sources = sources();
    assert!(sources.len() > 100, "the sources are found");
    let mut literals = Vec::new();
    for (file, text) in &sources {
        for code in Code::ALL {
            let literal = format!("\"{code}\"");
            if text.contains(&literal) && !NOT_CODES.contains(&(file.as_str(), code.as_str())) {
                literals.push(format!("{file}: {literal}"));
            }
        }
    }
    assert!(literals.is_empty(), "use the enum `Code`: {literals:#?}");
}

#[test]
fn error_codes_are_all_in_use() {
    let sources = sources();
    let in_payloads = user_error_codes();
    let unused: Vec<String> = Code::ALL
        .iter()
        .filter(|code| !in_payloads.contains(code.as_str()))
        .map(|code| format!("Code::{code:?}"))
        .filter(|name| {
            let follows = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric());
            !sources.iter().any(|(_, text)| text.split(name.as_str()).skip(1).any(follows))
        })
        .collect();
    assert!(unused.is_empty(), "codes that nothing sends: {unused:#?}");
}

#[test]
fn error_codes_of_payloads_are_codes() {
    let codes: BTreeSet<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    let in_payloads = user_error_codes();
    assert!(in_payloads.len() >= 8, "{in_payloads:?}");
    let missing: Vec<&String> = in_payloads.iter().filter(|code| !codes.contains(code.as_str())).collect();
    assert!(missing.is_empty(), "in UserErrorCode but not in Code: {missing:?}");
}
