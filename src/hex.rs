//! Bytes as two small digits each, and back.

/// Two small digits for each byte.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|half| char::from(DIGITS[usize::from(half)])).collect()
}

/// Reads a digest of SHA-256, which has 64 digits.
#[must_use]
pub fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    // A sign is no digit, though `from_str_radix` takes one.
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (place, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(place * 2..place * 2 + 2)?, 16).ok()?;
    }
    Some(digest)
}
