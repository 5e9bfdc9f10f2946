//! Money and its two scalars (ISO 4217).
//!
//! Amounts are stored and computed in whole minor units; clients see a decimal text, never a binary fraction.

use std::borrow::Cow;
use std::fmt::Write as _;

use async_graphql::{InputValueError, InputValueResult, Scalar, ScalarType, SimpleObject, Value};

use crate::graphql::rows::{Computed, Object, Part};
use crate::json::Json;

/// An amount of money.
#[derive(Clone, Debug, PartialEq, Eq, SimpleObject)]
pub struct Money {
    /// The amount in units of the currency.
    pub amount: Decimal,
    /// The currency.
    pub currency_code: CurrencyCode,
}

impl Money {
    /// From minor units, as the database has them.
    #[must_use]
    pub fn from_minor(minor: i64, currency: &str) -> Self {
        Self {
            amount: Decimal { minor, exponent: exponent(currency) },
            currency_code: CurrencyCode(currency.to_owned()),
        }
    }
}

/// How many decimals a currency has (ISO 4217, list one); two unless listed here.
#[must_use]
pub fn exponent(currency: &str) -> u8 {
    match currency {
        "BIF" | "CLP" | "DJF" | "GNF" | "ISK" | "JPY" | "KMF" | "KRW" | "PYG" | "RWF" | "UGX" | "UYI" | "VND"
        | "VUV" | "XAF" | "XOF" | "XPF" => 0,
        "BHD" | "IQD" | "JOD" | "KWD" | "LYD" | "OMR" | "TND" => 3,
        "CLF" | "UYW" => 4,
        _ => 2,
    }
}

/// A decimal number as a text, exact: "12.50".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decimal {
    minor: i64,
    exponent: u8,
}

impl std::fmt::Display for Decimal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let exponent = usize::from(self.exponent);
        let digits = format!("{:0>width$}", self.minor.unsigned_abs(), width = exponent + 1);
        let (whole, fraction) = digits.split_at(digits.len() - exponent);
        if self.minor < 0 {
            f.write_char('-')?;
        }
        f.write_str(whole)?;
        if exponent > 0 { write!(f, ".{fraction}") } else { Ok(()) }
    }
}

/// A decimal number as a text, exact: `"12.50"`.
#[Scalar]
impl ScalarType for Decimal {
    fn parse(value: Value) -> InputValueResult<Self> {
        let Value::String(text) = &value else { return Err(InputValueError::expected_type(value)) };
        let bad = || InputValueError::custom("a decimal number is a text such as \"12.50\", with at most 4 decimals");
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if fraction.len() > 4
            || !all_digits(fraction)
            || !all_digits(whole.strip_prefix('-').unwrap_or(whole))
            || (text.contains('.') && fraction.is_empty())
        {
            return Err(bad());
        }
        let minor = format!("{whole}{fraction}").parse().map_err(|_| bad())?;
        Ok(Self { minor, exponent: u8::try_from(fraction.len()).unwrap_or(0) })
    }

    fn to_value(&self) -> Value {
        Value::String(self.to_string())
    }
}

/// A currency (ISO 4217), three capital letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurrencyCode(String);

/// A currency (ISO 4217), three capital letters: `"EUR"`.
#[Scalar]
impl ScalarType for CurrencyCode {
    fn parse(value: Value) -> InputValueResult<Self> {
        match value {
            Value::String(code) if code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_uppercase()) => {
                Ok(Self(code))
            }
            other => Err(InputValueError::expected_type(other)),
        }
    }

    fn to_value(&self) -> Value {
        Value::String(self.0.clone())
    }
}

impl Json for Decimal {
    fn write(&self, out: &mut Vec<u8>) {
        self.to_string().write(out);
    }
}

impl Json for CurrencyCode {
    fn write(&self, out: &mut Vec<u8>) {
        self.0.write(out);
    }
}

impl Object for Money {
    fn type_name() -> Cow<'static, str> {
        Cow::Borrowed("Money")
    }

    fn part(name: &str) -> Option<Part<Self>> {
        match name {
            "amount" => Some(Part::of(|money: &Self| money.amount)),
            "currencyCode" => Some(Part::of(|money: &Self| money.currency_code.clone())),
            _ => None,
        }
    }
}

impl Computed for Money {
    fn part<T: Send + Sync + 'static>(make: fn(&T) -> Self) -> Part<T> {
        Part::computed(make)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minor_units_become_decimals() {
        for (minor, currency, shown) in [
            (1250, "USD", "12.50"),
            (5, "EUR", "0.05"),
            (-5, "EUR", "-0.05"),
            (0, "USD", "0.00"),
            (1250, "JPY", "1250"),
            (1250, "KWD", "1.250"),
            (i64::MIN, "USD", "-92233720368547758.08"),
        ] {
            assert_eq!(Money::from_minor(minor, currency).amount.to_string(), shown);
        }
    }

    #[test]
    fn decimals_are_read_exactly() {
        let read = |text: &str| Decimal::parse(Value::String(text.into())).map(|decimal| decimal.to_string()).ok();
        assert_eq!(read("12.50").as_deref(), Some("12.50"));
        assert_eq!(read("-0.5").as_deref(), Some("-0.5"));
        for bad in ["", ".", "1.", "1e5", "--1", "+1", "1.23456", "99999999999999999999", "1\0", "NaN"] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }
}
