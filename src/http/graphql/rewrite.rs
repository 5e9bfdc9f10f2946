//! What the specification of September 2025 allows and the engine's parser does not read, written so that it does.
//!
//! Descriptions of operations, fragments and variables are taken out; `\u{…}` and pairs of surrogates become their
//! characters; block strings become strings with the value that the specification gives them (`BlockStringValue`); types are
//! written without gaps. Every token stays in its line, and in its column as well: what becomes shorter is followed by
//! spaces. (A block string of one line with many quotes in it can become longer, and moves what follows it in that line.)

use std::fmt::Write as _;

use super::lexer::{BLOCK_QUOTE, Kind, Piece, Pieces, Place, escape};

/// Rewrites a document that [`check`](super::lexer::check) has gone through without a fault. The cost is the length of the
/// document.
pub(super) fn rewrite(text: &str) -> String {
    let pieces: Vec<Piece> = Pieces::of(text).flatten().collect();
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    // Gaps that wait for the end of a type.
    let mut held = String::new();
    let mut place = Place::default();
    let mut next_token = next_tokens(&pieces).into_iter();
    for piece in &pieces {
        let next = next_token.next().flatten();
        let source = &text[piece.start..piece.end];
        let Some(kind) = piece.token else {
            if place.splits_type(next) {
                blank(source, &mut held);
            } else if place.after_on() {
                blank(source, &mut out);
            } else {
                out.push_str(&std::mem::take(&mut held));
                out.push_str(source);
            }
            continue;
        };
        if !held.is_empty() && !place.splits_type(Some(kind)) {
            out.push_str(&std::mem::take(&mut held));
        }
        if kind == Kind::Text && place.describes(next) {
            blank(source, &mut out);
            continue;
        }
        if piece.foreign {
            string(source, &mut out);
        } else {
            out.push_str(source);
        }
        // There was no fault the first time.
        let _ = place.pass(kind, source);
    }
    out.push_str(&held);
    out
}

/// For every piece the token that comes after it.
fn next_tokens(pieces: &[Piece]) -> Vec<Option<Kind>> {
    let mut next = None;
    let mut all = Vec::with_capacity(pieces.len());
    for piece in pieces.iter().rev() {
        all.push(next);
        next = piece.token.or(next);
    }
    all.reverse();
    all
}

/// Spaces in the place of a text; its lines stay.
fn blank(source: &str, out: &mut String) {
    out.extend(source.chars().map(|c| if matches!(c, '\n' | '\r') { c } else { ' ' }));
}

/// A string that means the same to the parser, with spaces behind it up to the length that it had.
fn string(source: &str, out: &mut String) {
    let start = out.len();
    out.push('"');
    if source.as_bytes().starts_with(BLOCK_QUOTE) {
        block_value(source).chars().for_each(|c| write_char(c, out));
        out.push('"');
        // What follows stands in the last line of the block, so the lines before it come first.
        match source.rfind(['\n', '\r']) {
            Some(last) => {
                out.extend(source.chars().filter(|c| matches!(c, '\n' | '\r')));
                out.extend(source[last + 1..].chars().map(|_| ' '));
            }
            None => pad(source, start, out),
        }
        return;
    }
    let mut rest = &source[1..source.len() - 1];
    while let Some(c) = rest.chars().next() {
        let length = match escape(rest.as_bytes()) {
            Ok((length, Some(character))) if c == '\\' => {
                write_char(character, out);
                length
            }
            Ok((length, None)) if c == '\\' => {
                out.push_str(&rest[..length]);
                length
            }
            _ => {
                out.push(c);
                c.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    out.push('"');
    pad(source, start, out);
}

fn pad(source: &str, start: usize, out: &mut String) {
    let written = out[start..].chars().count();
    out.extend(std::iter::repeat_n(' ', source.chars().count().saturating_sub(written)));
}

/// A character inside of a string.
fn write_char(c: char, out: &mut String) {
    match c {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        c => {
            let _ = out.write_char(c);
        }
    }
}

/// `BlockStringValue` of section 2.9.4.
fn block_value(source: &str) -> String {
    let raw = source[BLOCK_QUOTE.len()..source.len() - BLOCK_QUOTE.len()].replace("\\\"\"\"", "\"\"\"");
    let raw = raw.replace("\r\n", "\n").replace('\r', "\n");
    let is_blank = |line: &str| line.bytes().all(|byte| matches!(byte, b' ' | b'\t'));
    let indent = |line: &str| line.bytes().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    let common = raw.split('\n').skip(1).filter(|line| !is_blank(line)).map(indent).min().unwrap_or(0);
    let lines = raw.split('\n').enumerate();
    let mut lines: Vec<&str> =
        lines.map(|(n, line)| if n == 0 { line } else { line.get(common..).unwrap_or_default() }).collect();
    while lines.last().is_some_and(|line| is_blank(line)) {
        lines.pop();
    }
    let first = lines.iter().position(|line| !is_blank(line)).unwrap_or(lines.len());
    lines[first..].join("\n")
}

#[cfg(test)]
mod tests {
    use async_graphql::parser::parse_query;
    use async_graphql_value::Value;

    use super::super::lexer::check;
    use super::super::limits::Limits;

    fn written(text: &str) -> String {
        check(text, &Limits::default()).expect(text).into_owned()
    }

    #[test]
    fn descriptions_are_taken_out_and_everything_stays_in_its_place() {
        let text = "\"\"\"\nWhat it is for: { ( é\n\"\"\" query A(\"é the id\" $id: ID = \"x\" \"\"\"n\n\"\"\" $n: [ Int! ] !) {\n  a(b: \"kept\" c: $id) }\n\"f\" fragment F on Q { a(b: [\"x\" $c]) }";
        let out = written(text);
        let document = parse_query(&out).expect(&out);
        assert_eq!(out.matches('"').count(), 6, "{out}");
        let (_, operation) = document.operations.iter().next().expect("an operation");
        assert_eq!((operation.pos.line, operation.pos.column), (3, 5));
        let variables: Vec<_> = operation
            .node
            .variable_definitions
            .iter()
            .map(|v| (v.pos.line, v.pos.column, v.node.var_type.to_string()))
            .collect();
        assert_eq!(variables, [(3, 24, "ID".to_owned()), (4, 5, "[Int!]!".to_owned())]);
        let place = |text: &str, what: &str| text.lines().position(|line| line.contains(what));
        assert_eq!(place(&out, "fragment F"), place(text, "fragment F"));
        for plain in
            ["{ a(b: \"x\") }", "query($a: [Int!]! = [1 2]) { a }", "{ a(b: \"\"\"x\"\"\") }", "fragment F on Q { a }"]
        {
            assert!(matches!(check(plain, &Limits::default()), Ok(std::borrow::Cow::Borrowed(_))), "{plain}");
        }
    }

    #[test]
    fn only_what_is_a_description_is_one() {
        for text in [
            "\"x\" { a }",
            "\"x\"",
            "\"a\" \"b\" query { a }",
            "query \"x\" A { a }",
            "query A \"x\" { a }",
            "query(\"x\") { a }",
            "query($a: \"x\" Int) { a }",
            "{ \"x\" a }",
            "{ a(\"x\" b: 1) }",
            "{ a(b: \"x\" $c) }",
            "fragment \"x\" F on Q { a }",
            "query @d(\"x\" $a) { a }",
        ] {
            let out = check(text, &Limits::default()).map(std::borrow::Cow::into_owned);
            assert!(out.map_or(true, |out| parse_query(&out).is_err()), "{text}");
        }
    }

    #[test]
    fn strings_have_the_value_that_the_specification_gives_them() {
        let block = |inner: &str| format!("\"\"\"{inner}\"\"\"");
        for (written_as, value) in [
            ("\"a\\u{1F600}b\"".to_owned(), "a😀b"),
            ("\"\\uD83D\\uDE00\"".to_owned(), "😀"),
            ("\"\\u{22}\\u{5c}\\u{a}\\u{d}\\u0041\\u{1F600}\\n\\\"\"".to_owned(), "\"\\\n\rA😀\n\""),
            (
                block("\n    Hello,\n      World!\n\n    Yours,\n  \n      GraphQL.\n  "),
                "Hello,\n  World!\n\nYours,\n\n  GraphQL.",
            ),
            (block("a \\\"\"\" b \\u{41} \\n"), "a \"\"\" b \\u{41} \\n"),
            (block("a\r\n  b\r  c"), "a\nb\nc"),
            (block("\n\n"), ""),
            (block("\n \t\n    é\n"), "é"),
        ] {
            let text = format!("{{ a(b: {written_as} c: 1) }}");
            let out = written(&text);
            let document = parse_query(&out).expect(&out);
            let (_, operation) = document.operations.iter().next().expect("an operation");
            let async_graphql::parser::types::Selection::Field(field) =
                &operation.node.selection_set.node.items[0].node
            else {
                panic!("a field")
            };
            assert_eq!(field.node.arguments[0].1.node, Value::String(value.to_owned()), "{text} as {out}");
            let after = field.node.arguments[1].0.pos;
            let lines: Vec<&str> = text.split('\n').collect();
            let last = lines.last().expect("a line");
            let column = last.rsplit('\r').next().expect("a part").find("c: 1").expect("the argument after it");
            let column = last.rsplit('\r').next().expect("a part")[..column].chars().count() + 1;
            assert_eq!((after.line, after.column), (lines.len(), column), "{text} as {out}");
        }
    }

    #[test]
    fn comments_and_gaps_may_stand_wherever_tokens_are_apart() {
        for text in [
            "{ ... on # a\n # b\n Q { a } }",
            "query($a: [ [ Int # c\n ! ] ] ! = [ [ 1 ] ]) { a }",
            "query($a: Int !, $b: Int) { a }",
        ] {
            let out = written(text);
            assert!(parse_query(&out).is_ok(), "{text} as {out}");
        }
    }
}
