//! Whose request it is when proxies stand between: `TRUSTED_PROXIES` and `CLIENT_ADDRESS_HEADER`.
//!
//! A header says what its sender wants. The address of the connection is believed; what it says of the one before it, only
//! when it is one of the operator's proxies, and so on backwards. The first address that is no proxy of theirs is the client's,
//! whatever stands before it.
//!
//! One header is read, the one that the proxies write. A proxy that writes `X-Forwarded-For` passes on what its client wrote into
//! `Forwarded`: whoever read both would believe the client.

use std::net::IpAddr;

use axum::http::HeaderMap;

use crate::network::Network;

/// The header in which the operator's proxies say who their client is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AddressHeader {
    /// `X-Forwarded-For`: each proxy adds whom it got the request from.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239): the same, as `for=`.
    Forwarded,
    /// `Fly-Client-IP`: Fly's proxy sets it to its client. The last address of its `X-Forwarded-For` is the application's own.
    FlyClientIp,
}

/// The operator's own proxies.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    /// Where they are.
    pub networks: Vec<Network>,
    /// The header that they write.
    pub header: AddressHeader,
}

impl Proxies {
    /// The address of the client of a connection from `peer`.
    #[must_use]
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let is_proxy = |address: IpAddr| self.networks.iter().any(|network| network.has(address));
        let mut client = peer.to_canonical();
        if !is_proxy(client) {
            return client;
        }
        for hop in self.hops(headers).iter().rev() {
            // A proxy of ours that does not say who was before it is the last that is known.
            let Some(before) = address(hop) else { return client };
            client = before;
            if !is_proxy(client) {
                break;
            }
        }
        client
    }

    /// What the header says of the way, the first hop first.
    fn hops(&self, headers: &HeaderMap) -> Vec<String> {
        let all = |name| {
            let values =
                headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
            values.collect::<Vec<_>>().join(",")
        };
        let plain = |way: &str| {
            way.split(',').map(str::trim).filter(|hop| !hop.is_empty()).map(str::to_owned).collect::<Vec<_>>()
        };
        match self.header {
            AddressHeader::XForwardedFor => plain(&all("x-forwarded-for")),
            AddressHeader::Forwarded => all("forwarded").split(',').map(forwarded_for).collect(),
            AddressHeader::FlyClientIp => plain(&all("fly-client-ip")),
        }
    }
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

    /// The header is the first one's, or the usual.
    fn client(peer: &str, headers: &[(&'static str, &str)]) -> String {
        let networks = ["10.0.0.0/8", "2001:db8::/32"].map(|text| text.parse().expect("a network")).into();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).expect("a value"));
        }
        let header = match headers.first().map(|(name, _)| *name) {
            Some("forwarded") => AddressHeader::Forwarded,
            Some("fly-client-ip") => AddressHeader::FlyClientIp,
            _ => AddressHeader::default(),
        };
        Proxies { networks, header }.client(peer.parse().expect("an address"), &map).to_string()
    }

    #[test]
    fn headers_of_strangers_are_not_believed() {
        for header in ["x-forwarded-for", "fly-client-ip"] {
            assert_eq!(client("203.0.113.9", &[(header, "1.1.1.1")]), "203.0.113.9");
        }
        assert_eq!(client("203.0.113.9", &[("forwarded", "for=1.1.1.1")]), "203.0.113.9");
        assert_eq!(client("203.0.113.9", &[]), "203.0.113.9");
    }

    #[test]
    fn only_the_header_of_the_proxies_is_believed() {
        let (ours, others) = ("203.0.113.9", "1.1.1.1");
        let (forwarded, spoofed) = (format!("for={ours}"), format!("for={others}"));
        for headers in [
            [("x-forwarded-for", ours), ("forwarded", &spoofed), ("fly-client-ip", others)],
            [("forwarded", &forwarded), ("x-forwarded-for", others), ("fly-client-ip", others)],
            [("fly-client-ip", ours), ("x-forwarded-for", others), ("forwarded", &spoofed)],
        ] {
            assert_eq!(client("10.1.1.1", &headers), ours, "{headers:?}");
        }
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
            (vec![("fly-client-ip", "2001:db9::7")], "2001:db9::7"),
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
