//! Names of tables and columns, and how SQL writes them.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

pub use crate::sql_text::{literal, quote};

/// The schema and the name of a table, as in the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Relation {
    pub schema: String,
    pub name: String,
}

impl Relation {
    /// The table with this name in this schema.
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        Self { schema: schema.into(), name: name.into() }
    }

    /// Both parts, quoted for SQL.
    #[must_use]
    pub fn sql(&self) -> String {
        format!("{}.{}", quote(&self.schema), quote(&self.name))
    }

    /// Reads `name`, `schema.name` or `schema."na.me"`.
    ///
    /// # Errors
    /// If the text has another form.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = vec![String::new()];
        let mut quoted = false;
        let mut characters = text.chars().peekable();
        while let (Some(character), Some(last)) = (characters.next(), parts.last_mut()) {
            match character {
                '"' if quoted && characters.peek() == Some(&'"') => {
                    characters.next();
                    last.push('"');
                }
                '"' => quoted = !quoted,
                '.' if !quoted => parts.push(String::new()),
                '\0' => return Err("a name cannot hold the character NUL".to_owned()),
                other => last.push(other),
            }
        }
        if quoted || parts.iter().any(String::is_empty) {
            return Err(format!(
                "`{text}` is not the name of a table: write schema.table, with double quotes around a part that has a dot in it"
            ));
        }
        match <[String; 2]>::try_from(parts) {
            Ok([schema, name]) => Ok(Self { schema, name }),
            Err(mut parts) if parts.len() == 1 => Ok(Self::new("public", parts.remove(0))),
            Err(_) => Err(format!("`{text}` has too many parts: write schema.table")),
        }
    }
}

/// For people and for the plan: quoted only where it could not be read back otherwise.
impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |part: &str| if part.contains(['.', '"']) { quote(part) } else { part.to_owned() };
        write!(f, "{}.{}", part(&self.schema), part(&self.name))
    }
}

impl<'de> Deserialize<'de> for Relation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl Serialize for Relation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One column, or the columns of a composite key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Columns(pub Vec<String>);

impl<'de> Deserialize<'de> for Columns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum OneOrMany {
            One(String),
            Many(Vec<String>),
        }
        Ok(match OneOrMany::deserialize(deserializer)? {
            OneOrMany::One(column) => Self(vec![column]),
            OneOrMany::Many(columns) => Self(columns),
        })
    }
}

impl fmt::Display for Columns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

/// Shortens a name to the 63 bytes that `PostgreSQL` keeps. Different names stay different.
pub fn short_name(name: &str) -> String {
    if name.len() <= 63 {
        return name.to_owned();
    }
    let digest = Sha256::digest(name.as_bytes());
    let mut end = 52;
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}_{:02x}{:02x}{:02x}{:02x}", &name[..end], digest[0], digest[1], digest[2], digest[3])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written_back() {
        for (text, schema, name) in [
            ("users", "public", "users"),
            ("legacy.Users", "legacy", "Users"),
            ("legacy.\"odd.name\"", "legacy", "odd.name"),
            ("legacy.\"a\"\"b\"", "legacy", "a\"b"),
            ("select.from where", "select", "from where"),
        ] {
            let relation = Relation::parse(text).expect(text);
            assert_eq!(relation, Relation::new(schema, name));
            assert_eq!(Relation::parse(&relation.to_string()), Ok(relation));
        }
        for bad in ["", ".", "a.", "a.b.c", "\"a", "a\0b"] {
            assert!(Relation::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Relation::new("a", "b\"; drop table x; --").sql(), "\"a\".\"b\"\"; drop table x; --\"");
        assert_eq!(literal(r"it's \ here"), r"E'it''s \\ here'");
    }
}
