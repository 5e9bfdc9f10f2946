//! Money and its two scalars (ISO 4217).
//!
//! Amounts are stored and computed in whole minor units; clients see a decimal text, never a binary fraction.

use std::borrow::Cow;
use std::fmt::Write as _;

use async_graphql::{InputObject, InputValueError, InputValueResult, Scalar, ScalarType, SimpleObject, Value};

use crate::graphql::mutation::{Checks, UserErrorCode};
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
            amount: Decimal { digits: minor.into(), exponent: exponent(currency) },
            currency_code: CurrencyCode(currency.to_owned()),
        }
    }
}

/// An amount of money that a client names.
#[derive(Clone, Debug, PartialEq, Eq, InputObject)]
pub struct MoneyInput {
    /// The amount in units of the currency, with no more decimals than the currency has: `"12.50"` USD, `"1250"` JPY.
    pub amount: Decimal,
    /// The currency: one of ISO 4217.
    pub currency_code: CurrencyCode,
}

impl MoneyInput {
    /// The most that a client may name, in minor units: far above any budget, far below what sums overflow at.
    pub const MAX_MINOR: i64 = 1_000_000_000_000_000;

    /// Checks the amount that stands in `input.field`; gives it in minor units, not below `least`. Nothing is rounded, and more
    /// decimals than the currency has are refused even if they are zeros: `1.000` yen may have been meant as a thousand.
    pub fn check(&self, checks: &mut Checks, field: &str, least: i64) -> i64 {
        let currency = self.currency_code.as_str();
        if !is_currency(currency) {
            checks.refuse(field, UserErrorCode::Invalid, format!("\"{currency}\" is no currency of ISO 4217."));
            return least;
        }
        let places = exponent(currency);
        let Some(missing) = places.checked_sub(self.amount.exponent) else {
            let message = format!("{currency} has {places} decimals; {} has {}.", self.amount, self.amount.exponent);
            checks.refuse(field, UserErrorCode::Invalid, message);
            return least;
        };
        let minor = self.amount.digits.checked_mul(10_i128.pow(missing.into())).and_then(|all| i64::try_from(all).ok());
        match minor {
            Some(minor) if (least..=Self::MAX_MINOR).contains(&minor) => minor,
            _ => {
                let shown = |minor| Money::from_minor(minor, currency).amount;
                let message = format!("The amount must be from {} to {}.", shown(least), shown(Self::MAX_MINOR));
                checks.refuse(field, UserErrorCode::Invalid, message);
                least
            }
        }
    }
}

/// The currencies of ISO 4217, list one, that money is held in: without metals, funds and codes for tests.
const CURRENCIES: &str = "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD \
    CDF CHF CLF CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL \
    HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD \
    MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR \
    SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD UYI UYU UYW UZS \
    VED VES VND VUV WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG";

/// Whether this is a currency of ISO 4217 that money is held in.
#[must_use]
pub fn is_currency(code: &str) -> bool {
    CURRENCIES.split(' ').any(|known| known == code)
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
    digits: i128,
    exponent: u8,
}

impl std::fmt::Display for Decimal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let exponent = usize::from(self.exponent);
        let digits = format!("{:0>width$}", self.digits.unsigned_abs(), width = exponent + 1);
        let (whole, fraction) = digits.split_at(digits.len() - exponent);
        if self.digits < 0 {
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
        let bad = || {
            InputValueError::custom(
                "a decimal number is a text such as \"12.50\", with at most 30 digits and 4 decimals",
            )
        };
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if fraction.len() > 4
            || text.len() > 32
            || !all_digits(fraction)
            || !all_digits(whole.strip_prefix('-').unwrap_or(whole))
            || (text.contains('.') && fraction.is_empty())
        {
            return Err(bad());
        }
        let digits = format!("{whole}{fraction}").parse().map_err(|_| bad())?;
        Ok(Self { digits, exponent: u8::try_from(fraction.len()).unwrap_or(0) })
    }

    fn to_value(&self) -> Value {
        Value::String(self.to_string())
    }
}

/// A currency (ISO 4217), three capital letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurrencyCode(String);

impl CurrencyCode {
    /// The three letters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

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
        for bad in ["", ".", "1.", "1e5", "--1", "+1", "1.23456", "1\0", "NaN", "-"] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
        assert_eq!(read(&"9".repeat(33)), None);
    }

    #[test]
    fn amounts_are_as_exact_as_their_currency() {
        let read = |amount: &str, currency: &str| {
            let amount = Decimal::parse(Value::String(amount.into())).expect("a decimal");
            let mut checks = Checks::default();
            let input = MoneyInput { amount, currency_code: CurrencyCode(currency.into()) };
            let minor = input.check(&mut checks, "amount", 1);
            checks.finish().is_ok().then_some(minor)
        };
        for (amount, currency, minor) in [
            ("12.50", "USD", 1250),
            ("12.5", "USD", 1250),
            ("12", "USD", 1200),
            ("0.01", "EUR", 1),
            ("1250", "JPY", 1250),
            ("1.25", "KWD", 1250),
            ("0.001", "BHD", 1),
            ("10000000000000.00", "USD", MoneyInput::MAX_MINOR),
        ] {
            assert_eq!(read(amount, currency), Some(minor), "{amount} {currency}");
        }
        for (amount, currency) in [
            ("1.005", "USD"),
            ("1.000", "USD"),
            ("1.0", "JPY"),
            ("1.2345", "KWD"),
            ("0", "USD"),
            ("0.00", "USD"),
            ("-1", "USD"),
            ("10000000000000.01", "USD"),
            ("99999999999999999999999999999", "USD"),
            ("1", "ABC"),
            ("1", "XAU"),
        ] {
            assert_eq!(read(amount, currency), None, "{amount} {currency}");
        }
    }
}
