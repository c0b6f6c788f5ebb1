//! Request targets that are read, cut or refused.

use super::*;

fn parse(raw: &[u8]) -> Result<OriginForm<'_>, Malformed> {
    match OriginForm::parse(raw, false)? {
        Form::Origin(form) => Ok(form),
        Form::Asterisk => panic!("only OPTIONS has *"),
    }
}

#[test]
fn an_origin_form_is_kept_byte_for_byte_and_borrowed() {
    let cases = [
        ("/", "/", None),
        ("/a?", "/a", Some("")),
        ("/a?b?c", "/a", Some("b?c")),
        ("/a//b/../c;d/%2F%41/", "/a//b/../c;d/%2F%41/", None),
        ("/a[b]~!$&'()*+,=:@", "/a[b]~!$&'()*+,=:@", None),
        ("/a?q=%zz%&x=\"<>\\^`{|}", "/a", Some("q=%zz%&x=\"<>\\^`{|}")),
    ];
    for (raw, path, query) in cases {
        let form = parse(raw.as_bytes()).unwrap();
        assert_eq!((form.path(), form.query()), (path, query), "{raw}");
        assert!(
            matches!(form.into_target(), Cow::Borrowed(target) if target == raw),
            "{raw}"
        );
    }
}

#[test]
fn an_absolute_form_is_cut_to_its_path() {
    let cases = [
        ("http://h/a%2Fb?x", "/a%2Fb?x"),
        ("HTTPS://h:443/a", "/a"),
        ("http://[::1]:80//a", "//a"),
        ("http://h", "/"),
        ("http://h?x=/y", "/?x=/y"),
    ];
    for (raw, target) in cases {
        let form = parse(raw.as_bytes()).unwrap();
        assert_eq!(form.target(), target, "{raw}");
    }
}

#[test]
fn what_two_servers_could_read_differently_is_refused() {
    let cases: [(&[u8], Malformed); 38] = [
        (b"", Malformed::NotOriginForm),
        (b"*", Malformed::NotOriginForm),
        (b"?x", Malformed::NotOriginForm),
        (b"healthz", Malformed::NotOriginForm),
        (b"%68ealthz", Malformed::NotOriginForm),
        (b"%2fhealthz", Malformed::NotOriginForm),
        (b"\\healthz", Malformed::NotOriginForm),
        (b"x:healthz", Malformed::NotOriginForm),
        (b"x:/healthz", Malformed::NotOriginForm),
        (b"foo:/healthz", Malformed::NotOriginForm),
        (b"foo://h/healthz", Malformed::NotOriginForm),
        (b"foo://h/%68ealthz", Malformed::NotOriginForm),
        (b"x://h:80/healthz", Malformed::NotOriginForm),
        (b"http:/healthz", Malformed::NotOriginForm),
        (b"h:80", Malformed::NotOriginForm),
        (b"http:///healthz", Malformed::Authority),
        (b"http://a@h/healthz", Malformed::Authority),
        (b"http://h\\healthz", Malformed::Authority),
        (b"/healthz#x", Malformed::Byte),
        (b"/healthz ", Malformed::Byte),
        (b"/healthz\t", Malformed::Byte),
        (b"/healthz\r", Malformed::Byte),
        (b"/healthz\x0b", Malformed::Byte),
        (b"/healthz\x0c", Malformed::Byte),
        (b"/healthz\x00", Malformed::Byte),
        (b"/healthz?a b", Malformed::Byte),
        (b"/healthz?a#b", Malformed::Byte),
        (b"/\xff", Malformed::Byte),
        ("/\u{ff28}ealthz".as_bytes(), Malformed::Byte),
        (b"/x\\healthz", Malformed::Byte),
        (b"/{x}", Malformed::Byte),
        (b"/%u0068ealthz", Malformed::Percent),
        (b"/%zz", Malformed::Percent),
        (b"/a%", Malformed::Percent),
        (b"/a%4", Malformed::Percent),
        (b"/healthz%0a", Malformed::Control),
        (b"/a%00b", Malformed::Control),
        (b"/%c0%afhealthz", Malformed::Encoding),
    ];
    for (raw, expected) in cases {
        assert_eq!(parse(raw).unwrap_err(), expected, "{}", raw.escape_ascii());
    }
}

#[test]
fn an_asterisk_belongs_to_options() {
    assert_eq!(OriginForm::parse(b"*", true), Ok(Form::Asterisk));
}

#[test]
fn a_target_has_a_longest_length() {
    let target = format!("/{}", "a".repeat(MAX_TARGET));
    assert!(parse(&target.as_bytes()[..MAX_TARGET]).is_ok());
    assert_eq!(parse(target.as_bytes()).unwrap_err().status(), 414);
}

#[test]
fn a_canonical_path_is_decoded_once_merged_and_resolved() {
    let cases = [
        ("/a/b", "/a/b"),
        ("/a/", "/a/"),
        ("//a///b//", "/a/b/"),
        ("/a/./b/.", "/a/b/"),
        ("/a/../b", "/b"),
        ("/a/b/..", "/a/"),
        ("/../..", "/"),
        ("/%2e%2e/%61%2Fb", "/a/b"),
        ("/%2561", "/%61"),
        ("/.well-known/x", "/.well-known/x"),
        ("/a/...", "/a/..."),
    ];
    for (path, expected) in cases {
        assert_eq!(canonical(path), expected, "{path}");
        assert_eq!(canonical(expected), expected.replace("%61", "a"), "again: {path}");
    }
}

#[test]
fn a_path_that_is_canonical_is_borrowed() {
    assert!(matches!(canonical("/v1/chat-messages"), Cow::Borrowed(_)));
}
