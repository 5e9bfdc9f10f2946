//! A look at a document before it is parsed: GraphQL specification, section 2.1 "Source Text".
//!
//! The parser recurses with the nesting of brackets, and everything after it costs memory per token. So the tokens are
//! counted and the brackets measured first, in one pass without allocation. The pass is at least as strict as the
//! parser about where strings end, so the two can never disagree about which bracket is inside a string.

use async_graphql::Pos;

use super::failure::Failure;
use super::limits::Limits;
use crate::error::Code;

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
const BLOCK_QUOTE: &[u8] = b"\"\"\"";

/// Refuses documents with too many tokens, brackets nested too deeply, or characters that no document may have.
pub(super) fn check(text: &str, limits: &Limits) -> Result<(), Failure> {
    let bytes = text.as_bytes();
    if bytes.len() > limits.document {
        return Err(Failure::limit(
            Code::QueryTooLong,
            format!(
                "The document has {} bytes; at most {} are allowed. Send values as variables.",
                bytes.len(),
                limits.document
            ),
        ));
    }
    let (mut at, mut tokens, mut open) = (0, 0_usize, 0_usize);
    while let Some(&byte) = bytes.get(at) {
        let rest = &bytes[at..];
        at += match byte {
            b' ' | b'\t' | b'\n' | b'\r' | b',' => {
                at += 1;
                continue;
            }
            b'#' => {
                at += run(rest, |byte| byte != b'\n' && byte != b'\r');
                continue;
            }
            _ if rest.starts_with(BYTE_ORDER_MARK) => {
                at += BYTE_ORDER_MARK.len();
                continue;
            }
            b'"' => string(rest).map_err(|(offset, what)| syntax(text, at + offset, what))?,
            b'.' if rest.starts_with(b"...") => 3,
            b'{' | b'[' | b'(' => {
                open += 1;
                1
            }
            b'}' | b']' | b')' => {
                open = open.saturating_sub(1);
                1
            }
            b'!' | b'$' | b'&' | b':' | b'=' | b'@' | b'|' => 1,
            b'_' | b'a'..=b'z' | b'A'..=b'Z' => run(rest, |byte| byte == b'_' || byte.is_ascii_alphanumeric()),
            b'-' | b'0'..=b'9' => run(rest, |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.')),
            _ => return Err(syntax(text, at, "a character that has no meaning here")),
        };
        tokens += 1;
        if tokens > limits.tokens {
            return Err(too_many_tokens(text, limits));
        }
        if open > limits.brackets {
            return Err(Failure::limit(
                Code::QueryTooDeep,
                format!(
                    "The document opens more than {} brackets inside each other. Send fewer levels at once.",
                    limits.brackets
                ),
            ));
        }
    }
    Ok(())
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

type Fault = (usize, &'static str);

const UNTERMINATED: &str = "a string that does not end";
const CONTROL: &str = "a control character";
const NUL: &str = "a NUL character, which no text here can hold";

/// The length of the string at the start of `bytes`, which begins with a quote.
fn string(bytes: &[u8]) -> Result<usize, Fault> {
    if bytes.starts_with(BLOCK_QUOTE) {
        return block_string(bytes);
    }
    let mut at = 1;
    while let Some(&byte) = bytes.get(at) {
        at += match byte {
            b'"' => return Ok(at + 1),
            b'\\' => escape(&bytes[at..]).map_err(|what| (at, what))?,
            b'\n' | b'\r' => return Err((at, UNTERMINATED)),
            b'\t' => 1,
            0 => return Err((at, NUL)),
            1..0x20 => return Err((at, CONTROL)),
            _ => 1,
        };
    }
    Err((0, UNTERMINATED))
}

fn block_string(bytes: &[u8]) -> Result<usize, Fault> {
    let mut at = BLOCK_QUOTE.len();
    while let Some(&byte) = bytes.get(at) {
        let rest = &bytes[at..];
        at += match byte {
            b'\\' if rest[1..].starts_with(BLOCK_QUOTE) => 4,
            b'"' if rest.starts_with(BLOCK_QUOTE) => return Ok(at + BLOCK_QUOTE.len()),
            b'\t' | b'\n' | b'\r' => 1,
            0 => return Err((at, NUL)),
            1..0x20 => return Err((at, CONTROL)),
            _ => 1,
        };
    }
    Err((0, UNTERMINATED))
}

/// The length of the escape sequence at the start of `bytes`.
fn escape(bytes: &[u8]) -> Result<usize, &'static str> {
    match bytes.get(1) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(2),
        Some(b'u') => {
            let digits = bytes.get(2..6).and_then(|digits| std::str::from_utf8(digits).ok());
            let digits = digits.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
            match digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()) {
                Some(code) if char::from_u32(code).is_some() => Ok(6),
                _ => Err("an escape that is no Unicode character (write the character itself)"),
            }
        }
        _ => Err("an unknown escape in a string"),
    }
}

/// A syntax error at a byte offset.
fn syntax(text: &str, offset: usize, what: &str) -> Failure {
    let before = &text.as_bytes()[..offset.min(text.len())];
    let before = String::from_utf8_lossy(before);
    let line = before.split('\n').count();
    let column = 1 + before.rsplit('\n').next().unwrap_or_default().chars().count();
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
        for good in [r#"{a(b:"\"{")}"#, r#"{a(b:"\\")}"#, r#"{a(b:"\u00e9\n")}"#, r#"{a(b:"")}"#, r#"{a(b:"""""")}"#] {
            assert_eq!(code(good), None, "{good}");
            assert!(async_graphql::parser::parse_query(good).is_ok(), "{good}");
        }
        for bad in
            ["{a(b:\"\n\")}", r#"{a(b:"\q")}"#, r#"{a(b:"\u12")}"#, r#"{a(b:"\ud800")}"#, r#"{a(b:"""")}"#, "{a(b:\"x"]
        {
            assert_eq!(code(bad).as_deref(), Some("GRAPHQL_PARSE_FAILED"), "{bad}");
        }
    }

    #[test]
    fn control_characters_and_nul_are_refused_everywhere() {
        for bad in ["{a\0}", "{a(b:\"\0\")}", "{a(b:\"\"\"\0\"\"\")}", "{a\u{7}}", "{é}", "{a;b}"] {
            assert_eq!(code(bad).as_deref(), Some("GRAPHQL_PARSE_FAILED"), "{bad:?}");
        }
        assert_eq!(code("\u{feff}{a}"), None);
        // Written as an escape it is a value like any other, which resolvers judge.
        assert_eq!(code(r#"{a(b:"\u0000")}"#), None);
    }

    #[test]
    fn the_place_of_a_fault_is_told() {
        let failure = check("{\n  é;}", &Limits::default()).expect_err("é is no name");
        assert_eq!(failure.errors()[0].locations, [Pos { line: 2, column: 3 }]);
    }
}
