//! Cursors: opaque names of places in a list.
//!
//! A cursor holds the order values and the id of its row, and a checksum over the organization, the list and the order
//! it was made for. It is opaque, not secret: it holds what its reader was shown, and a forged one only names another
//! place in the reader's own list.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::graphql::cells::Columns;
use crate::graphql::listing::Listed;
use crate::graphql::order::{CursorValue, Order};
use crate::graphql::plan::Scope;

/// Makes and reads the cursors of one list.
#[derive(Clone, Debug)]
pub struct Cursors<E: Listed> {
    order: Order<E>,
    /// What the checksum covers beside the cursor itself.
    list: String,
}

impl<E: Listed> Cursors<E> {
    /// The cursors of this list of this organization.
    #[must_use]
    pub fn new(organization: Uuid, scope: Scope, order: Order<E>) -> Self {
        let list = format!("{organization}|{}|{scope:?}|{order:?}", E::NAME);
        Self { order, list }
    }

    /// The columns that a cursor holds, and the id.
    pub(super) fn columns(&self) -> Columns {
        let ordered = self.order.iter().map(|(field, _)| E::place_of_column(E::order_column(*field).column));
        ordered.fold(E::place("id"), Columns::with)
    }

    fn checksum(&self, body: &[u8]) -> [u8; 6] {
        let digest = Sha256::new().chain_update(self.list.as_bytes()).chain_update([0]).chain_update(body).finalize();
        std::array::from_fn(|i| digest[i])
    }

    /// The cursor of a row.
    pub(super) fn encode(&self, row: &E) -> String {
        let mut values: Vec<serde_json::Value> = self
            .order
            .iter()
            .map(|(field, _)| match row.order_value(*field) {
                CursorValue::Null => serde_json::Value::Null,
                CursorValue::Int(value) => value.into(),
                CursorValue::Float(value) => value.into(),
                CursorValue::Text(value) => value.into(),
            })
            .collect();
        values.push(row.uuid().simple().to_string().into());
        let body = serde_json::Value::Array(values).to_string();
        let mut bytes = self.checksum(body.as_bytes()).to_vec();
        bytes.extend_from_slice(body.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The values and the id in a cursor of this list.
    pub(super) fn decode(&self, cursor: &str) -> Option<(Vec<CursorValue>, Uuid)> {
        let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
        let (checksum, body) = bytes.split_at_checked(6)?;
        if checksum != self.checksum(body) {
            return None;
        }
        let mut values: Vec<serde_json::Value> = serde_json::from_slice(body).ok()?;
        let id = Uuid::try_parse(values.pop()?.as_str()?).ok()?;
        if values.len() != self.order.len() {
            return None;
        }
        let values = values
            .into_iter()
            .map(|value| match value {
                serde_json::Value::Null => Some(CursorValue::Null),
                serde_json::Value::String(text) if !text.contains('\0') => Some(CursorValue::Text(text)),
                serde_json::Value::Number(number) => {
                    number.as_i64().map(CursorValue::Int).or_else(|| number.as_f64().map(CursorValue::Float))
                }
                _ => None,
            })
            .collect::<Option<Vec<_>>>()?;
        Some((values, id))
    }
}
