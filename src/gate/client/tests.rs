//! Clients behind proxies that are trusted, and behind those that are not.

use super::*;

fn trusted() -> CidrSet {
    ["10.0.0.0/8", "2001:db8:ff::/48"]
        .iter()
        .flat_map(|entry| CidrSet::parse_one(entry).unwrap())
        .collect()
}

fn client(peer: &str, headers: &[(&str, &str)]) -> Client {
    let headers = headers.iter().map(|(name, value)| (*name, value.as_bytes()));
    identify(peer.parse().unwrap(), &trusted(), headers)
}

/// The address that a trusted proxy's headers give, in text; `-` for none.
fn told(headers: &[(&str, &str)]) -> String {
    let client = client("10.0.0.1", headers);
    assert!(client.via_trusted);
    client.address.map_or("-".to_owned(), |address| address.to_string())
}

#[test]
fn an_untrusted_peer_is_its_socket_address_whatever_it_says() {
    for header in [
        ("x-forwarded-for", "10.0.0.9"),
        ("forwarded", "for=10.0.0.9"),
        ("X-Real-IP", "10.0.0.9"),
        ("via", "1.1 x"),
    ] {
        let client = client("192.0.2.1", &[("host", "h"), header]);
        let expected = Client {
            hidden: true,
            ..Client::direct("192.0.2.1".parse().unwrap())
        };
        assert_eq!(client, expected, "{header:?}");
    }
}

#[test]
fn an_untrusted_peer_without_forwarding_headers_is_not_hidden() {
    let expected = Client {
        address: Some("192.0.2.1".parse().unwrap()),
        via_trusted: false,
        hidden: false,
    };
    assert_eq!(
        client("::ffff:192.0.2.1", &[("host", "h"), ("accept", "*/*")]),
        expected
    );
}

#[test]
fn the_right_most_untrusted_hop_is_the_client() {
    let cases: [(&[&str], &str); 24] = [
        (&[], "10.0.0.1"),
        (&["192.0.2.1"], "192.0.2.1"),
        (&["10.9.9.9, 192.0.2.1"], "192.0.2.1"),
        (&["127.0.0.1, 192.0.2.1, 10.0.0.2"], "192.0.2.1"),
        (&["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        (&["198.51.100.1", "192.0.2.1"], "192.0.2.1"),
        (&["192.0.2.1", "10.0.0.2,10.0.0.3"], "192.0.2.1"),
        (&["192.0.2.1:4711"], "192.0.2.1"),
        (&["[2001:db8::1]:4711"], "2001:db8::1"),
        (&["[2001:db8::1]"], "2001:db8::1"),
        (&["2001:db8::1"], "2001:db8::1"),
        (&["::ffff:192.0.2.1"], "192.0.2.1"),
        (&["192.0.2.1, 2001:db8:ff::1"], "192.0.2.1"),
        (&["junk, 192.0.2.1"], "192.0.2.1"),
        (&["192.0.2.1, junk"], "-"),
        (&["unknown"], "-"),
        (&["_hidden"], "-"),
        (&[""], "-"),
        (&["192.0.2.1,"], "-"),
        (&["fe80::1%eth0"], "-"),
        (&["192.0.2.01"], "-"),
        (&["192.0.2.1:"], "-"),
        (&["[2001:db8::1]x"], "-"),
        (&["\"192.0.2.1\""], "-"),
    ];
    for (lines, expected) in cases {
        let headers: Vec<_> = lines.iter().map(|line| ("X-Forwarded-For", *line)).collect();
        assert_eq!(told(&headers), expected, "{lines:?}");
    }
}

#[test]
fn forwarded_is_read_where_nothing_else_stands() {
    let cases: [(&[&str], &str); 16] = [
        (&["for=192.0.2.1"], "192.0.2.1"),
        (&["For=\"192.0.2.1:80\";proto=https;by=10.0.0.1"], "192.0.2.1"),
        (&["proto=http; for=\"[2001:db8::1]:4711\""], "2001:db8::1"),
        (&["for=10.6.6.6, for=192.0.2.1"], "192.0.2.1"),
        (&["for=192.0.2.1", "for=10.0.0.2"], "192.0.2.1"),
        (&["for=192.0.2.1;by=\"a,for=10.9.9.9\""], "192.0.2.1"),
        (&["for=192.0.2.1;by=\"a\\\",for=10.9.9.9\""], "192.0.2.1"),
        (&["for=192.0.2.1:_port"], "192.0.2.1"),
        (&["for=\"10.6.6.6, for=192.0.2.1"], "-"),
        (&["for=192.0.2.1;for=10.6.6.6"], "-"),
        (&["by=192.0.2.1"], "-"),
        (&["for=unknown"], "-"),
        (&["for=_x"], "-"),
        (&["for=\"192.0.2.1"], "-"),
        (&["for="], "-"),
        (&[""], "-"),
    ];
    for (lines, expected) in cases {
        let headers: Vec<_> = lines.iter().map(|line| ("forwarded", *line)).collect();
        assert_eq!(told(&headers), expected, "{lines:?}");
    }
}

#[test]
fn a_chain_that_is_too_long_names_nobody() {
    let hops = |count: usize| vec!["192.0.2.1"; count].join(",");
    assert_eq!(told(&[("x-forwarded-for", &hops(32))]), "192.0.2.1");
    assert_eq!(told(&[("x-forwarded-for", &hops(33))]), "-");
    let padding = " ".repeat(4_096);
    assert_eq!(
        told(&[("x-forwarded-for", &padding), ("x-forwarded-for", "192.0.2.1")]),
        "-"
    );
}

#[test]
fn two_kinds_of_headers_that_disagree_hide_the_client() {
    let plain = ("x-forwarded-for", "10.6.6.6");
    let forged = client("10.0.0.1", &[plain, ("forwarded", "for=192.0.2.1")]);
    assert!(forged.hidden);
    let agreed = client("10.0.0.1", &[plain, ("forwarded", "for=10.6.6.6")]);
    assert_eq!(
        (agreed.hidden, agreed.address),
        (false, Some("10.6.6.6".parse().unwrap()))
    );
}
