//! Values of statements whose text is put together at run time.

use std::hash::{Hash, Hasher};

use bytes::BytesMut;
use chrono::{DateTime, Utc};
use sqlx::Arguments as _;
use sqlx::postgres::PgArguments;
use tokio_postgres::types::{IsNull, ToSql, Type};
use uuid::Uuid;

use crate::error::{Error, Result};

/// A bound value.
#[derive(Clone, Debug, PartialEq)]
pub enum Bind {
    /// `uuid`
    Uuid(Uuid),
    /// `uuid[]`
    Uuids(Vec<Uuid>),
    /// `text`
    Text(String),
    /// `text[]`
    Texts(Vec<String>),
    /// `bigint`
    Int(i64),
    /// `bigint[]`
    Ints(Vec<i64>),
    /// `double precision`
    Float(f64),
    /// `boolean`
    Bool(bool),
    /// `timestamptz`
    Time(DateTime<Utc>),
    /// `timestamptz[]`
    Times(Vec<DateTime<Utc>>),
}

impl Eq for Bind {}
impl Hash for Bind {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(self).hash(state);
        match self {
            Self::Uuid(value) => value.hash(state),
            Self::Uuids(value) => value.hash(state),
            Self::Text(value) => value.hash(state),
            Self::Texts(value) => value.hash(state),
            Self::Int(value) => value.hash(state),
            Self::Ints(value) => value.hash(state),
            Self::Float(value) => value.to_bits().hash(state),
            Self::Bool(value) => value.hash(state),
            Self::Time(value) => value.hash(state),
            Self::Times(value) => value.hash(state),
        }
    }
}

impl Bind {
    /// Adds the value to the arguments of a statement of sqlx.
    pub fn add_to(&self, arguments: &mut PgArguments) -> Result<()> {
        match self {
            Self::Uuid(value) => arguments.add(value),
            Self::Uuids(value) => arguments.add(value),
            Self::Text(value) => arguments.add(value),
            Self::Texts(value) => arguments.add(value),
            Self::Int(value) => arguments.add(value),
            Self::Ints(value) => arguments.add(value),
            Self::Float(value) => arguments.add(value),
            Self::Bool(value) => arguments.add(value),
            Self::Time(value) => arguments.add(value),
            Self::Times(value) => arguments.add(value),
        }
        .map_err(Error::internal)
    }

    /// The type that the statement's parameter is declared with: what a column next to it has does not decide.
    pub(super) const fn sql_type(&self) -> Type {
        match self {
            Self::Uuid(_) => Type::UUID,
            Self::Uuids(_) => Type::UUID_ARRAY,
            Self::Text(_) => Type::TEXT,
            Self::Texts(_) => Type::TEXT_ARRAY,
            Self::Int(_) => Type::INT8,
            Self::Ints(_) => Type::INT8_ARRAY,
            Self::Float(_) => Type::FLOAT8,
            Self::Bool(_) => Type::BOOL,
            Self::Time(_) => Type::TIMESTAMPTZ,
            Self::Times(_) => Type::TIMESTAMPTZ_ARRAY,
        }
    }
}

impl ToSql for Bind {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::Uuid(value) => value.to_sql(ty, out),
            Self::Uuids(value) => value.to_sql(ty, out),
            Self::Text(value) => value.to_sql(ty, out),
            Self::Texts(value) => value.to_sql(ty, out),
            Self::Int(value) => value.to_sql(ty, out),
            Self::Ints(value) => value.to_sql(ty, out),
            Self::Float(value) => value.to_sql(ty, out),
            Self::Bool(value) => value.to_sql(ty, out),
            Self::Time(value) => value.to_sql(ty, out),
            Self::Times(value) => value.to_sql(ty, out),
        }
    }

    fn accepts(_: &Type) -> bool {
        // A statement is prepared with the types of its binds: see `sql_type`.
        true
    }

    fn to_sql_checked(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        if *ty != self.sql_type() {
            return Err(format!("a parameter of type {ty} was given a value of type {}", self.sql_type()).into());
        }
        self.to_sql(ty, out)
    }
}
