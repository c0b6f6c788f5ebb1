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
    #[allow(clippy::type_complexity)] // a table
    let cases: [(&[u8], &str, Option<&[u8]>); 10] = [
        (b"/", "/", None),
        (b"/a?", "/a", Some(b"")),
        (b"/a?b?c", "/a", Some(b"b?c")),
        (b"/a//b/../c;d/%2F%41/", "/a//b/../c;d/%2F%41/", None),
        (b"/a[b]~!$&'()*+,=:@", "/a[b]~!$&'()*+,=:@", None),
        (b"/a?q=%zz%&x=\"<>\\^`{|}", "/a", Some(b"q=%zz%&x=\"<>\\^`{|}")),
        // Raw UTF-8, and GBK, which is none.
        (b"/a?q=\xe5\xbc\xa0", "/a", Some(b"q=\xe5\xbc\xa0")),
        (b"/a?\xd5\xc5=\x80\xff", "/a", Some(b"\xd5\xc5=\x80\xff")),
        (b"/?{\"a\":[1]}", "/", Some(b"{\"a\":[1]}")),
        (b"/healthz?/../\xe5", "/healthz", Some(b"/../\xe5")),
    ];
    for (raw, path, query) in cases {
        let form = parse(raw).unwrap();
        let shown = raw.escape_ascii();
        assert_eq!((form.path(), form.query()), (path, query), "{shown}");
        assert!(
            matches!(form.into_target(), Cow::Borrowed(target) if target == raw),
            "{shown}"
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
        ("http://h/a?q=张://x", "/a?q=张://x"),
        ("http://h?q=张", "/?q=张"),
    ];
    for (raw, target) in cases {
        let form = parse(raw.as_bytes()).unwrap();
        assert_eq!(form.target(), target.as_bytes(), "{raw}");
        assert_eq!(form.path().len(), target.find('?').unwrap_or(target.len()), "{raw}");
    }
}

#[test]
fn what_two_servers_could_read_differently_is_refused() {
    let cases: [(&[u8], Malformed); 47] = [
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
        (b"/healthz?a\x00", Malformed::Byte),
        (b"/healthz?a\r", Malformed::Byte),
        (b"/healthz?a\nb", Malformed::Byte),
        (b"/healthz?a\tb", Malformed::Byte),
        (b"/healthz?\xe5\x7f", Malformed::Byte),
        (b"/\xe5\xbc\xa0?x", Malformed::Byte),
        (b"http://h#?\xe5", Malformed::Byte),
        (b"http://h\xe5/", Malformed::Authority),
        (b"http\xe5://h/", Malformed::NotOriginForm),
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

#[test]
fn a_target_as_a_url_has_encoded_what_a_url_must_encode() {
    for (raw, expected) in [
        (&b"/a%2Fb?x=%zz"[..], "/a%2Fb?x=%zz"),
        (b"/a?q=\xe5\xbc\xa0&\xff", "/a?q=%E5%BC%A0&%FF"),
        (b"/?{\"a\":1}\\^`|<>", "/?%7B%22a%22:1%7D%5C%5E%60%7C%3C%3E"),
        (b"/a b\r\n", "/a%20b%0D%0A"),
    ] {
        assert_eq!(as_url(raw), expected, "{}", raw.escape_ascii());
    }
}
