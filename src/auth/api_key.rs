//! The form of API keys: `tnt_`, forty random characters, and a checksum of six.
//!
//! The checksum (CRC-32 of what stands before it, in base 62) tells a mistyped key, or a text that merely looks like one, from
//! a key without asking the database: whoever scans for leaked keys has few false alarms. A scanner's pattern is
//! `\btnt_[0-9A-Za-z]{46}\b`.

use std::fmt;

use sha2::{Digest as _, Sha256};

/// What keys begin with.
pub const PREFIX: &str = "tnt_";
const RANDOM_CHARS: usize = 40;
const CHECKSUM_CHARS: usize = 6;
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A key, or its beginning that may be shown: 4 + 8 characters.
const SHOWN_CHARS: usize = PREFIX.len() + 8;

/// A key: 238 random bits. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKeySecret(String);

impl fmt::Debug for ApiKeySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKeySecret({}…)", self.shown())
    }
}

impl Default for ApiKeySecret {
    /// A new one.
    fn default() -> Self {
        let mut key = PREFIX.to_owned();
        while key.len() < PREFIX.len() + RANDOM_CHARS {
            // Six bits; the two values without a digit are drawn again, so that all digits are as likely.
            let drawn: u8 = rand::random::<u8>() & 63;
            if let Some(digit) = DIGITS.get(usize::from(drawn)) {
                key.push(char::from(*digit));
            }
        }
        key += &checksum(&key);
        Self(key)
    }
}

impl ApiKeySecret {
    /// Reads a key; `None` for a text that no key is.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let long = text.len() == PREFIX.len() + RANDOM_CHARS + CHECKSUM_CHARS && text.is_ascii();
        let (key, sum) = text.split_at_checked(text.len().checked_sub(CHECKSUM_CHARS)?)?;
        (long && text.starts_with(PREFIX) && checksum(key) == sum).then(|| Self(text.to_owned()))
    }

    /// The whole key.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }

    /// The beginning, by which people recognize it.
    #[must_use]
    pub fn shown(&self) -> &str {
        self.0.get(..SHOWN_CHARS).unwrap_or_default()
    }

    /// What the database has of it: SHA-256. A key is as random as a hash, so it needs no salt and no slow one.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }
}

fn checksum(text: &str) -> String {
    let mut rest = crc32(text.as_bytes());
    let mut sum = [b'0'; CHECKSUM_CHARS];
    for place in sum.iter_mut().rev() {
        *place = DIGITS[usize::try_from(rest % 62).unwrap_or_default()];
        rest /= 62;
    }
    sum.iter().map(|digit| char::from(*digit)).collect()
}

/// CRC-32 as in ISO 3309, that of zip and PNG.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_field() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926, "the check value of CRC-32/ISO-HDLC");
        assert_eq!(checksum("123456789").len(), CHECKSUM_CHARS);
    }

    #[test]
    fn keys_are_read_as_they_are_written_and_not_shown() {
        let (one, other) = (ApiKeySecret::default(), ApiKeySecret::default());
        assert_ne!(one, other);
        assert_eq!(ApiKeySecret::parse(one.text()), Some(one.clone()));
        assert_eq!(format!("{one:?}").len(), "ApiKeySecret(…)".len() + SHOWN_CHARS);
        assert!(one.text()[PREFIX.len()..].bytes().all(|byte| byte.is_ascii_alphanumeric()));
    }

    #[test]
    fn every_changed_character_makes_it_no_key() {
        let key = ApiKeySecret::default();
        for place in 0..key.text().len() {
            let mut changed = key.text().as_bytes().to_vec();
            changed[place] = if changed[place] == b'x' { b'y' } else { b'x' };
            let changed = String::from_utf8(changed).expect("ASCII");
            assert_eq!(ApiKeySecret::parse(&changed), None, "{place}");
        }
        for text in ["", "tnt_", "tnt_ü", &key.text()[1..], &format!("{}0", key.text()), "ü".repeat(25).as_str()] {
            assert_eq!(ApiKeySecret::parse(text), None);
        }
    }
}
