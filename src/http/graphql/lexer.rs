//! A look at a document before it is parsed: GraphQL specification (September 2025), section 2.1 "Source Text" and the
//! lexical part of appendix C.
//!
//! The parser recurses with the nesting of brackets, and everything after it costs memory per token. So the tokens are
//! counted and the brackets measured first, in one pass that allocates for object literals alone. The pass is at least as
//! strict as the parser about where tokens end, so the two can never disagree about which bracket is inside a string. What
//! the parser takes although the specification does not (`{a(b: 00)}`, `queryA {a}`) is refused here; what it does not take
//! although the specification does is written otherwise by [`rewrite`](super::rewrite), and noticed here.

use std::borrow::Cow;
use std::collections::HashSet;

use async_graphql::Pos;

use super::failure::Failure;
use super::limits::Limits;
use super::rewrite::rewrite;
use crate::error::Code;

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
pub(super) const BLOCK_QUOTE: &[u8] = b"\"\"\"";

/// What a token is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Name,
    Number,
    /// A string in quotes, or a block string.
    Text,
    /// Punctuation: its first character.
    Mark(u8),
}

/// A token, or what lies between tokens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    /// `None`: white space, commas, comments.
    pub(super) token: Option<Kind>,
    /// Where it begins, in bytes.
    pub(super) start: usize,
    /// Where the next one begins.
    pub(super) end: usize,
    /// For texts: whether the parser reads them differently than the specification, or not at all.
    pub(super) foreign: bool,
}

/// What is wrong, and at which byte.
type Fault = (usize, &'static str);

/// Cuts a document into pieces, one after the other without gaps.
pub(super) struct Pieces<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Pieces<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    fn cut(&self) -> Result<Piece, Fault> {
        let start = self.at;
        let rest = &self.text.as_bytes()[start..];
        let piece = |token, length: usize| Piece { token, start, end: start + length, foreign: false };
        let fault = |(offset, what)| (start + offset, what);
        Ok(match rest.first().copied().unwrap_or_default() {
            b' ' | b'\t' | b'\n' | b'\r' | b',' => {
                piece(None, run(rest, |byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b',')))
            }
            b'#' => piece(None, run(rest, |byte| byte != b'\n' && byte != b'\r')),
            _ if rest.starts_with(BYTE_ORDER_MARK) => piece(None, BYTE_ORDER_MARK.len()),
            b'"' if rest.starts_with(BLOCK_QUOTE) => {
                let (length, foreign) = block_string(rest).map_err(fault)?;
                Piece { foreign, ..piece(Some(Kind::Text), length) }
            }
            b'"' => {
                let (length, foreign) = string(rest).map_err(fault)?;
                Piece { foreign, ..piece(Some(Kind::Text), length) }
            }
            b'.' if rest.starts_with(b"...") => piece(Some(Kind::Mark(b'.')), 3),
            mark @ (b'{' | b'[' | b'(' | b'}' | b']' | b')' | b'!' | b'$' | b'&' | b':' | b'=' | b'@' | b'|') => {
                piece(Some(Kind::Mark(mark)), 1)
            }
            b'_' | b'a'..=b'z' | b'A'..=b'Z' => {
                piece(Some(Kind::Name), run(rest, |byte| byte == b'_' || byte.is_ascii_alphanumeric()))
            }
            b'-' | b'0'..=b'9' => {
                let belongs = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.' | b'_');
                let length = run(rest, belongs);
                if !is_number(&rest[..length]) {
                    return Err((start, "a number that is none (write 12, -3.5 or 1e6)"));
                }
                piece(Some(Kind::Number), length)
            }
            _ => return Err((start, "a character that has no meaning here")),
        })
    }
}

impl Iterator for Pieces<'_> {
    type Item = Result<Piece, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.text.len() {
            return None;
        }
        let piece = self.cut();
        self.at = piece.as_ref().map_or(self.text.len(), |piece| piece.end);
        Some(piece)
    }
}

/// Where in a document a token stands, as far as matters here.
#[derive(Debug, Default)]
pub(super) struct Place<'a> {
    /// The brackets that are open.
    open: Vec<u8>,
    /// The token before.
    last: Option<Kind>,
    /// Its text.
    text: &'a str,
    /// The fields so far of each object literal that is open.
    objects: Vec<HashSet<&'a str>>,
}

impl<'a> Place<'a> {
    /// Whether a definition begins here.
    fn begins(&self) -> bool {
        self.open.is_empty() && matches!(self.last, None | Some(Kind::Mark(b'}') | Kind::Text))
    }

    /// Whether this is directly between the parentheses after the head of a definition.
    pub(super) fn among_variables(&self) -> bool {
        self.open.first() == Some(&b'(') && !self.open.contains(&b'{')
    }

    /// Whether a text here describes what comes after it, `next`.
    pub(super) fn describes(&self, next: Option<Kind>) -> bool {
        match next {
            Some(Kind::Name) => self.begins(),
            Some(Kind::Mark(b'$')) => self.open == [b'('] && !matches!(self.last, Some(Kind::Mark(b'=' | b':' | b'@'))),
            _ => false,
        }
    }

    /// Whether what is left out before `next` would split a type, whose parts the parser wants together: `[ Int ] !`.
    pub(super) fn splits_type(&self, next: Option<Kind>) -> bool {
        self.among_variables() && (self.last == Some(Kind::Mark(b'[')) || matches!(next, Some(Kind::Mark(b']' | b'!'))))
    }

    /// Whether the token before is the `on` of a type condition, after which the parser takes no comment.
    pub(super) fn after_on(&self) -> bool {
        self.last == Some(Kind::Name) && self.text == "on"
    }

    /// Goes past a token.
    pub(super) fn pass(&mut self, kind: Kind, text: &'a str) -> Result<(), &'static str> {
        match kind {
            Kind::Name if self.begins() && !matches!(text, "query" | "mutation" | "subscription" | "fragment") => {
                return Err("expected `query`, `mutation`, `subscription`, `fragment` or `{`");
            }
            Kind::Mark(b'{') if self.open.contains(&b'(') => {
                self.open.push(b'{');
                self.objects.push(HashSet::new());
            }
            Kind::Mark(mark @ (b'{' | b'[' | b'(')) => self.open.push(mark),
            Kind::Mark(b')') if self.last == Some(Kind::Mark(b'(')) => return Err("parentheses with nothing in them"),
            Kind::Mark(mark @ (b'}' | b']' | b')')) => {
                let opened = self.open.pop();
                if opened == Some(b'{') && mark == b'}' {
                    self.objects.pop();
                }
            }
            Kind::Mark(b':') if self.last == Some(Kind::Name) && self.open.last() == Some(&b'{') => {
                // Selections have aliases; only inside parentheses braces are an object's.
                if let Some(object) = self.objects.last_mut()
                    && !object.insert(self.text)
                {
                    return Err("a field that its object has already");
                }
            }
            _ => {}
        }
        (self.last, self.text) = (Some(kind), text);
        Ok(())
    }
}

/// Refuses documents with too many tokens, brackets nested too deeply, or tokens that no document may have. Gives the text
/// for the parser, in which every token stands in the line and column where it stood.
pub(super) fn check<'a>(text: &'a str, limits: &Limits) -> Result<Cow<'a, str>, Failure> {
    if text.len() > limits.document {
        return Err(Failure::limit(
            Code::QueryTooLong,
            format!(
                "The document has {} bytes; at most {} are allowed. Send values as variables.",
                text.len(),
                limits.document
            ),
        ));
    }
    let mut place = Place::default();
    let (mut tokens, mut foreign, mut gap, mut described) = (0_usize, false, false, false);
    for piece in Pieces::of(text) {
        let piece = piece.map_err(|(at, what)| syntax(text, at, what))?;
        let Some(kind) = piece.token else {
            gap = true;
            foreign |= text.as_bytes()[piece.start] == b'#' && place.after_on();
            continue;
        };
        foreign |= piece.foreign | described | (gap && place.splits_type(Some(kind)));
        // Whether it is a description depends on the token after it, which `rewrite` looks at.
        described =
            kind == Kind::Text && (place.describes(Some(Kind::Name)) || place.describes(Some(Kind::Mark(b'$'))));
        gap = false;
        place.pass(kind, &text[piece.start..piece.end]).map_err(|what| syntax(text, piece.start, what))?;
        tokens += 1;
        if tokens > limits.tokens {
            return Err(too_many_tokens(text, limits));
        }
        if place.open.len() > limits.brackets {
            return Err(Failure::limit(
                Code::QueryTooDeep,
                format!(
                    "The document opens more than {} brackets inside each other. Send fewer levels at once.",
                    limits.brackets
                ),
            ));
        }
    }
    if foreign { Ok(Cow::Owned(rewrite(text))) } else { Ok(Cow::Borrowed(text)) }
}

fn too_many_tokens(text: &str, limits: &Limits) -> Failure {
    Failure::limit(
        Code::QueryTooManyTokens,
        format!(
            "The document of {} bytes has more than {} tokens. Send values as variables and split large documents.",
            text.len(),
            limits.tokens
        ),
    )
}

fn run(bytes: &[u8], belongs: impl Fn(u8) -> bool) -> usize {
    bytes.iter().position(|&byte| !belongs(byte)).unwrap_or(bytes.len())
}

/// `IntValue` or `FloatValue`, and nothing after it.
fn is_number(bytes: &[u8]) -> bool {
    let digits = |bytes: &[u8]| run(bytes, |byte| byte.is_ascii_digit());
    let rest = bytes.strip_prefix(b"-").unwrap_or(bytes);
    let whole = digits(rest);
    if whole == 0 || (whole > 1 && rest[0] == b'0') {
        return false;
    }
    let mut rest = &rest[whole..];
    if let Some(fraction) = rest.strip_prefix(b".") {
        let places = digits(fraction);
        if places == 0 {
            return false;
        }
        rest = &fraction[places..];
    }
    if let Some(exponent) = rest.strip_prefix(b"e").or_else(|| rest.strip_prefix(b"E")) {
        let exponent = exponent.strip_prefix(b"+").or_else(|| exponent.strip_prefix(b"-")).unwrap_or(exponent);
        let places = digits(exponent);
        return places > 0 && places == exponent.len();
    }
    rest.is_empty()
}

const UNTERMINATED: &str = "a string that does not end";
const CONTROL: &str = "a control character";
const NUL: &str = "a NUL character, which no text here can hold";
const NO_CHARACTER: &str = "an escape that is no Unicode character (write the character itself)";

/// The length of the string at the start of `bytes`, which begins with a quote, and whether it has escapes that the parser
/// does not know.
fn string(bytes: &[u8]) -> Result<(usize, bool), Fault> {
    let (mut at, mut foreign) = (1, false);
    while let Some(&byte) = bytes.get(at) {
        at += match byte {
            b'"' => return Ok((at + 1, foreign)),
            b'\\' => {
                let (length, character) = escape(&bytes[at..]).map_err(|what| (at, what))?;
                foreign |= character.is_some() && length != 6;
                length
            }
            b'\n' | b'\r' => return Err((at, UNTERMINATED)),
            b'\t' => 1,
            0 => return Err((at, NUL)),
            1..0x20 => return Err((at, CONTROL)),
            _ => 1,
        };
    }
    Err((0, UNTERMINATED))
}

/// The same for a block string. The parser neither turns `\"""` into `"""` nor takes the indentation from lines that are
/// shorter than it.
fn block_string(bytes: &[u8]) -> Result<(usize, bool), Fault> {
    let (mut at, mut foreign) = (BLOCK_QUOTE.len(), false);
    while let Some(&byte) = bytes.get(at) {
        let rest = &bytes[at..];
        at += match byte {
            b'\\' if rest[1..].starts_with(BLOCK_QUOTE) => {
                foreign = true;
                4
            }
            b'"' if rest.starts_with(BLOCK_QUOTE) => return Ok((at + BLOCK_QUOTE.len(), foreign)),
            b'\n' | b'\r' => {
                foreign = true;
                1
            }
            b'\t' => 1,
            0 => return Err((at, NUL)),
            1..0x20 => return Err((at, CONTROL)),
            _ => 1,
        };
    }
    Err((0, UNTERMINATED))
}

/// The length of the escape sequence at the start of `bytes`, and for `\u` the character: `\u00e9`, `\u{1F600}`, or the
/// two halves `\uD83D\uDE00` (section 2.9.4 "String Value", static semantics).
pub(super) fn escape(bytes: &[u8]) -> Result<(usize, Option<char>), &'static str> {
    let hex = |digits: &[u8]| {
        let digits = std::str::from_utf8(digits).ok()?;
        let all = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        // Zeros in front may be as many as one likes.
        let digits = digits.trim_start_matches('0');
        if all && digits.len() <= 8 { u32::from_str_radix(&format!("0{digits}"), 16).ok() } else { None }
    };
    match bytes.get(1) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok((2, None)),
        Some(b'u') if bytes.get(2) == Some(&b'{') => {
            let digits = run(&bytes[3..], |byte| byte.is_ascii_hexdigit());
            let character = hex(&bytes[3..3 + digits]).and_then(char::from_u32);
            match character {
                Some(character) if bytes.get(3 + digits) == Some(&b'}') => Ok((digits + 4, Some(character))),
                _ => Err(NO_CHARACTER),
            }
        }
        Some(b'u') => {
            let unit = |from: usize| bytes.get(from..from + 4).and_then(hex).ok_or(NO_CHARACTER);
            let high = unit(2)?;
            if let Some(character) = char::from_u32(high) {
                return Ok((6, Some(character)));
            }
            if bytes.get(6..8) != Some(b"\\u") {
                return Err(NO_CHARACTER);
            }
            let low = unit(8)?;
            if !(0xD800..0xDC00).contains(&high) || !(0xDC00..0xE000).contains(&low) {
                return Err(NO_CHARACTER);
            }
            let character = char::from_u32(0x1_0000 + ((high - 0xD800) << 10) + (low - 0xDC00));
            character.map(|character| (12, Some(character))).ok_or(NO_CHARACTER)
        }
        _ => Err("an unknown escape in a string"),
    }
}

/// A syntax error at a byte offset.
fn syntax(text: &str, offset: usize, what: &str) -> Failure {
    let before = String::from_utf8_lossy(&text.as_bytes()[..offset.min(text.len())]);
    let line = before.split('\n').count();
    let column = 1 + before.rsplit(['\n', '\r']).next().unwrap_or_default().chars().count();
    Failure::syntax(what, Some(Pos { line, column }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> Option<String> {
        check(text, &Limits::default()).err().map(|failure| failure.code())
    }

    #[test]
    fn deep_brackets_are_refused_without_recursion() {
        for bracket in ["{", "[", "("] {
            let text = bracket.repeat(100_000);
            let small = bracket.repeat(9_000);
            assert_eq!(code(&text).as_deref(), Some("QUERY_TOO_DEEP"), "{bracket}");
            assert_eq!(code(&small).as_deref(), Some("QUERY_TOO_DEEP"), "{bracket}");
        }
        assert_eq!(code(&"{a".repeat(20)), None);
    }

    #[test]
    fn tokens_are_counted_and_comments_commas_and_text_are_not() {
        assert_eq!(code(&"{} ".repeat(5_000)), None);
        assert_eq!(code(&format!("{}}}", "{} ".repeat(5_000))).as_deref(), Some("QUERY_TOO_MANY_TOKENS"));
        assert_eq!(code(&format!("# {}\n{{a}}", "{ ".repeat(50_000))), None);
        assert_eq!(code(&format!("{{a}}{}", ",".repeat(50_000))), None);
        assert_eq!(code(&format!("{{a(b: \"{}\")}}", "{(".repeat(50_000))), None);
        assert_eq!(code(&format!("{{a(b: \"\"\"{}\n\\\"\"\" \"\"\")}}", "{(".repeat(50_000))), None);
    }

    #[test]
    fn strings_end_where_the_parser_ends_them() {
        for good in [
            r#"{a(b:"\"{")}"#,
            r#"{a(b:"\\")}"#,
            r#"{a(b:"\u00e9\n")}"#,
            r#"{a(b:"")}"#,
            r#"{a(b:"""""")}"#,
            r#"{a(b:"\u{0}\u{1F600}\uD83D\ude00")}"#,
            r#"{a(b:"\u{0000000000041}")}"#,
        ] {
            let text = check(good, &Limits::default()).expect(good);
            assert!(async_graphql::parser::parse_query(&text).is_ok(), "{good}: {text}");
        }
        for bad in [
            "{a(b:\"\n\")}",
            r#"{a(b:"\q")}"#,
            r#"{a(b:"\u12")}"#,
            r#"{a(b:"\ud800")}"#,
            r#"{a(b:"\ude00\ud83d")}"#,
            r#"{a(b:"\ud83d\u0041")}"#,
            r#"{a(b:"\ud83d\n")}"#,
            r#"{a(b:"\u{}")}"#,
            r#"{a(b:"\u{D800}")}"#,
            r#"{a(b:"\u{110000}")}"#,
            r#"{a(b:"\u{FFFFFFFFFF}")}"#,
            r#"{a(b:"\u{41")}"#,
            r#"{a(b:"""")}"#,
            "{a(b:\"x",
        ] {
            assert_eq!(code(bad).as_deref(), Some("GRAPHQL_PARSE_FAILED"), "{bad}");
        }
    }

    #[test]
    fn what_the_parser_takes_and_the_specification_does_not_is_refused() {
        for bad in [
            "queryA {a}",
            "querya{a}",
            "fragmentf on Q {a}",
            "query () {a}",
            "{a()}",
            "{a(b: 00)}",
            "{a(b: 01)}",
            "{a(b: 1.)}",
            "{a(b: 1e)}",
            "{a(b: -)}",
            "{a(b: 1_0)}",
            "{a(b: {c: 1 c: 2})}",
            "{a(b: {d: {c: 1 e: [{f: 1 f: 2}]}})}",
            "query($a: I = {c: 1 c: 2}) {a}",
        ] {
            assert_eq!(code(bad).as_deref(), Some("GRAPHQL_PARSE_FAILED"), "{bad}");
        }
        for good in [
            "{c: a c: a}",
            "{a(b: {c: 1 d: {c: 1}} e: {c: 1}) {c: a}}",
            "{a(b: [0 -0 0.0 1.5e-3 1E+2 10])}",
            "query{a}",
        ] {
            assert_eq!(code(good), None, "{good}");
        }
    }

    #[test]
    fn control_characters_and_nul_are_refused_everywhere() {
        for bad in ["{a\0}", "{a(b:\"\0\")}", "{a(b:\"\"\"\0\"\"\")}", "{a\u{7}}", "{é}", "{a;b}"] {
            assert_eq!(code(bad).as_deref(), Some("GRAPHQL_PARSE_FAILED"), "{bad:?}");
        }
        assert_eq!(code("\u{feff}{a}"), None);
        // Written as an escape it is a value like any other, which is judged where its type is known.
        assert_eq!(code(r#"{a(b:"\u0000")}"#), None);
    }

    #[test]
    fn the_place_of_a_fault_is_told() {
        let failure = check("{\n  é;}", &Limits::default()).expect_err("é is no name");
        assert_eq!(failure.errors()[0].locations, [Pos { line: 2, column: 3 }]);
    }
}
