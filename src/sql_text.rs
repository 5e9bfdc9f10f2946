//! Names and strings as SQL text, where a statement has no place for a parameter.

/// Quotes an identifier for SQL.
#[must_use]
pub fn quote(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// Quotes a string for SQL (`PostgreSQL` documentation, 4.1.2.1). The `E''` form means the same whatever
/// `standard_conforming_strings` is.
#[must_use]
pub fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}
