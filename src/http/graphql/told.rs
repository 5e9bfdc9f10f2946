//! How values, their paths and places of the schema stand in messages.

use std::fmt;

use async_graphql::Value as ConstValue;

/// A place in the schema: GraphQL specification, section 3.14 "Schema Coordinates".
#[derive(Clone, Copy, Debug)]
pub(super) enum Coordinate<'a> {
    /// A variable's type is the caller's own.
    Variable,
    /// `Type.field(argument:)`
    Argument(&'a str, &'a str, &'a str),
    /// `@directive(argument:)`
    OfDirective(&'a str, &'a str),
    /// `Input.field`
    Field(&'a str, &'a str),
}

impl fmt::Display for Coordinate<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable => Ok(()),
            Self::Argument(parent, field, argument) => write!(f, "{parent}.{field}({argument}:)"),
            Self::OfDirective(directive, argument) => write!(f, "@{directive}({argument}:)"),
            Self::Field(input, field) => write!(f, "{input}.{field}"),
        }
    }
}

#[derive(Clone, Copy)]
enum Segment<'a> {
    Variable(&'a str),
    Field(&'a str),
    Index(usize),
}

/// Where a value stands, as the caller wrote it.
pub(super) struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    segment: Segment<'a>,
}

impl<'a> Path<'a> {
    /// `$name`
    pub(super) fn variable(name: &'a str) -> Self {
        Self { parent: None, segment: Segment::Variable(name) }
    }

    /// `name`
    pub(super) fn argument(name: &'a str) -> Self {
        Self { parent: None, segment: Segment::Field(name) }
    }

    /// `….name`
    pub(super) fn field(&'a self, name: &'a str) -> Self {
        Self { parent: Some(self), segment: Segment::Field(name) }
    }

    /// `…[index]`
    pub(super) fn item(&'a self, index: usize) -> Self {
        Self { parent: Some(self), segment: Segment::Index(index) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.segment {
            Segment::Variable(name) => write!(f, "${}", Short(name)),
            Segment::Field(name) if self.parent.is_none() => write!(f, "{}", Short(name)),
            Segment::Field(name) => write!(f, ".{}", Short(name)),
            Segment::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// Whether a message must not repeat this: by the names that lead to it, and by how credentials begin (JSON Web Tokens,
/// keys of ours, of Stripe and of Clerk, secrets of webhooks).
pub(super) fn is_secret(text: &str, path: &Path<'_>) -> bool {
    const NAMES: [&str; 6] = ["token", "secret", "password", "passphrase", "credential", "authorization"];
    const BEGINNINGS: [&str; 7] = ["eyJ", "sk_", "rk_", "pk_", "whsec_", "tnt_", "Bearer "];
    let mut segments = std::iter::successors(Some(path), |path| path.parent);
    BEGINNINGS.iter().any(|beginning| text.starts_with(beginning))
        || segments.any(|path| match path.segment {
            Segment::Variable(name) | Segment::Field(name) => {
                let name = name.to_ascii_lowercase();
                NAMES.iter().any(|secret| name.contains(secret))
            }
            Segment::Index(_) => false,
        })
}

/// A text as it stands in messages, cut when long.
pub(super) struct Short<'a>(pub(super) &'a str);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 60;
        let mut chars = self.0.chars();
        for char in chars.by_ref().take(MOST) {
            write!(f, "{}", char.escape_debug())?;
        }
        if chars.next().is_some() { f.write_str("…") } else { Ok(()) }
    }
}

/// A value as it stands in messages.
pub(super) struct Shown<'a>(pub(super) &'a ConstValue, pub(super) &'a Path<'a>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ConstValue::String(text) if is_secret(text, self.1) => f.write_str("this text"),
            ConstValue::String(text) => write!(f, "\"{}\"", Short(text)),
            ConstValue::List(_) => f.write_str("a list"),
            ConstValue::Object(_) => f.write_str("an object"),
            ConstValue::Enum(name) => write!(f, "{}", Short(name)),
            value => write!(f, "{}", Short(&value.to_string())),
        }
    }
}

/// `A, B or C`.
pub(super) struct Choice<'a>(pub(super) &'a [String]);

impl fmt::Display for Choice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("nothing"),
            [only] => f.write_str(only),
            [first @ .., last] => write!(f, "{} or {last}", first.join(", ")),
        }
    }
}

/// A type as it stands in messages.
pub(super) struct Article<'a>(pub(super) &'a str);

impl fmt::Display for Article<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            "Int" => f.write_str("an Int (a whole number of 32 bits)"),
            "ID" => f.write_str("an ID (a text or a whole number)"),
            "DateTime" => f.write_str("a DateTime (a text such as \"2026-01-31T12:00:00Z\")"),
            "Decimal" => f.write_str("a Decimal (a text such as \"12.50\", at most 30 digits and 4 decimals)"),
            "CurrencyCode" => f.write_str("a CurrencyCode (a text of three capital letters, such as \"EUR\")"),
            name if name.starts_with(['A', 'E', 'I', 'O']) => write!(f, "an {name}"),
            name => write!(f, "a {name}"),
        }
    }
}
