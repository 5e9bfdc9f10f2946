//! Whose request it is when proxies stand between: `TRUSTED_PROXIES`.
//!
//! A header says what its sender wants. The address of the connection is believed; what it says of the one before it, only
//! when it is one of the operator's proxies, and so on backwards. The first address that is no proxy of theirs is the client's,
//! whatever stands before it. `Forwarded` (RFC 7239) is read where it is there, else `X-Forwarded-For`.

use std::net::IpAddr;

use axum::http::HeaderMap;

use crate::network::Network;

/// The address of the client of a connection from `peer`.
#[must_use]
pub fn of(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let is_proxy = |address: IpAddr| trusted.iter().any(|network| network.has(address));
    let mut client = peer.to_canonical();
    if !is_proxy(client) {
        return client;
    }
    for hop in hops(headers).iter().rev() {
        // A proxy of ours that does not say who was before it is the last that is known.
        let Some(before) = address(hop) else { return client };
        client = before;
        if !is_proxy(client) {
            break;
        }
    }
    client
}

/// What the headers say of the way, the first hop first.
fn hops(headers: &HeaderMap) -> Vec<String> {
    let all = |name| {
        let values = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        values.collect::<Vec<_>>().join(",")
    };
    if headers.contains_key("forwarded") {
        return all("forwarded").split(',').map(forwarded_for).collect();
    }
    let way = all("x-forwarded-for");
    way.split(',').map(str::trim).filter(|hop| !hop.is_empty()).map(str::to_owned).collect()
}

/// The `for` of an element of `Forwarded`.
fn forwarded_for(element: &str) -> String {
    let pair = element.split(';').filter_map(|pair| pair.trim().split_once('='));
    let by_name = pair.filter(|(name, _)| name.trim().eq_ignore_ascii_case("for"));
    by_name.map(|(_, value)| value.trim().trim_matches('"').to_owned()).next().unwrap_or_default()
}

/// An address, with or without a port, in brackets or not.
fn address(hop: &str) -> Option<IpAddr> {
    let bare = hop.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(address, _)| address);
    let without_port = hop.rsplit_once(':').map(|(address, _)| address);
    let found = [Some(hop), bare, without_port].into_iter().flatten().find_map(|text| text.parse::<IpAddr>().ok());
    found.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn client(peer: &str, headers: &[(&'static str, &str)]) -> String {
        let trusted = ["10.0.0.0/8", "2001:db8::/32"].map(|text| text.parse().expect("a network"));
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).expect("a value"));
        }
        of(peer.parse().expect("an address"), &map, &trusted).to_string()
    }

    #[test]
    fn headers_of_strangers_are_not_believed() {
        let spoofed = [("x-forwarded-for", "1.1.1.1"), ("forwarded", "for=1.1.1.1")];
        assert_eq!(client("203.0.113.9", &spoofed), "203.0.113.9");
        assert_eq!(client("203.0.113.9", &[]), "203.0.113.9");
    }

    #[test]
    fn the_client_is_the_first_that_is_no_proxy_of_ours() {
        for (headers, expected) in [
            (vec![("x-forwarded-for", "203.0.113.9")], "203.0.113.9"),
            // The client wrote the first one.
            (vec![("x-forwarded-for", "1.1.1.1, 203.0.113.9, 10.2.2.2")], "203.0.113.9"),
            (vec![("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "203.0.113.9")], "203.0.113.9"),
            (vec![("x-forwarded-for", "203.0.113.9:4711")], "203.0.113.9"),
            (vec![("x-forwarded-for", "::ffff:203.0.113.9")], "203.0.113.9"),
            (vec![("forwarded", "for=1.1.1.1, For=\"[2001:DB9::1]:4711\";proto=https, for=10.2.2.2")], "2001:db9::1"),
            (vec![("forwarded", "for=203.0.113.9"), ("x-forwarded-for", "1.1.1.1")], "203.0.113.9"),
            // The examples of RFC 7239, section 4.
            (vec![("forwarded", "for=\"_gazonk\"")], "10.1.1.1"),
            (vec![("forwarded", "For=\"[2001:db9:cafe::17]:4711\"")], "2001:db9:cafe::17"),
            (vec![("forwarded", "for=192.0.2.60;proto=http;by=203.0.113.43")], "192.0.2.60"),
            (vec![("forwarded", "for=192.0.2.43, for=198.51.100.17")], "198.51.100.17"),
            // Nothing that an address is: the last that is known.
            (vec![("x-forwarded-for", "1.1.1.1, unknown, 10.2.2.2")], "10.2.2.2"),
            (vec![("forwarded", "proto=https")], "10.1.1.1"),
            (vec![("x-forwarded-for", "")], "10.1.1.1"),
            (vec![], "10.1.1.1"),
        ] {
            assert_eq!(client("10.1.1.1", &headers), expected, "{headers:?}");
        }
    }
}
