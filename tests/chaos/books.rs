//! The comparison itself: each rule finds what it is for, and a fault explains only what it may have caused.

use std::time::{Duration, Instant};

use difygate::simulated_dify::{Deed, Entry};

use crate::chaos::client::events;
use crate::chaos::judge::compare;
use crate::chaos::ledger::{Books, Ejection, End, Fault, Happening, Kind, Seen, WayBack, What, Who, name};

/// Books of so many exchanges, to be written by hand.
struct Written {
    books: Books,
    start: Instant,
}

impl Written {
    fn new() -> Self {
        let start = Instant::now();
        let books = Books::new(start);
        Self { books, start }
    }

    fn at(&self, seconds: f64) -> Instant {
        self.start + Duration::from_secs_f64(seconds)
    }

    fn happens(&mut self, what: What, from: f64, until: f64) -> &mut Self {
        let (from, until) = (self.at(from), self.at(until));
        self.books.happened.push(Happening { what, from, until });
        self
    }

    fn deed(&mut self, exchange: u64, at: Who, seconds: f64, deed: Deed) -> &mut Self {
        let entry = Entry {
            exchange,
            instance: name(at),
            at: self.at(seconds),
            deed,
        };
        self.books.journal.push(entry);
        self
    }

    /// An exchange of one second that begins at second 10 and goes to the first instance.
    fn exchange(&mut self, kind: Kind, end: End, by: Option<Who>) -> &mut Self {
        let seen = Seen {
            id: 1,
            kind,
            sent: self.at(10.0),
            began: by.map(|_| self.at(10.1)),
            request: String::new(),
            status: by.map(|_| if kind == Kind::Socket { 101 } else { 200 }),
            ended: self.at(11.0),
            by,
            end,
            sum: [0; 20],
        };
        self.books.seen.push(seen);
        self.deed(1, 0, 10.05, Deed::Arrived)
    }

    fn runs(&mut self) -> &mut Self {
        self.deed(1, 0, 10.06, Deed::Executed([0; 20]))
    }

    /// How many failures are unexplained, and how many rules are broken.
    fn found(&self) -> (usize, usize) {
        let findings = compare(&self.books);
        (findings.unexplained.len(), findings.violations.len())
    }
}

fn refused(status: u16, code: &str) -> End {
    End::Refused {
        status,
        code: code.to_owned(),
    }
}

fn broken() -> End {
    End::Broke {
        how: "reset".to_owned(),
    }
}

#[test]
fn right_books_are_right() {
    let mut books = Written::new();
    books.exchange(Kind::Prompt, End::Whole, Some(0)).runs();
    assert_eq!(books.found(), (0, 0));
}

#[test]
fn a_prompt_that_ran_twice_never_or_for_nobody_is_found() {
    let mut twice = Written::new();
    twice.exchange(Kind::Prompt, End::Whole, Some(0)).runs();
    twice
        .deed(1, 1, 10.5, Deed::Arrived)
        .deed(1, 1, 10.5, Deed::Executed([0; 20]));
    // A fault explains a failure, and never that something ran twice.
    twice.happens(What::At(0, Fault::Kill), 10.0, 11.0);
    assert_eq!(twice.found(), (0, 1));
    let mut never = Written::new();
    never.exchange(Kind::Prompt, End::Whole, Some(0));
    assert_eq!(never.found(), (0, 1));
    let mut nobody = Written::new();
    nobody.deed(7, 0, 1.0, Deed::Arrived);
    assert_eq!(nobody.found(), (0, 1));
    let mut told = Written::new();
    told.exchange(Kind::Prompt, refused(503, "paused"), None).runs();
    told.happens(What::Paused, 9.0, 10.01);
    assert_eq!(told.found(), (0, 1), "its client was told that it was sent nowhere");
}

#[test]
fn another_body_a_wrong_answer_and_silence_are_found() {
    let mut upload = Written::new();
    upload.exchange(Kind::Upload, End::Whole, Some(0));
    upload.deed(1, 0, 10.5, Deed::Executed([7; 20]));
    assert_eq!(upload.found(), (0, 1));
    for end in [
        End::Wrong("other bytes".to_owned()),
        End::Late,
        End::Unconnected("refused".to_owned()),
    ] {
        let mut books = Written::new();
        let is_wrong = matches!(end, End::Wrong(_));
        books.exchange(Kind::Get, end, Some(0));
        books.happens(What::At(0, Fault::Kill), 10.0, 11.0);
        assert_eq!(books.found(), (1, usize::from(is_wrong)), "no fault excuses it");
    }
}

#[test]
fn a_lost_doubled_or_foreign_event_is_seen() {
    let event = |part: u64, id: u64| {
        format!("data: {{\"event\":\"message\",\"answer\":\"part {part} \",\"conversation_id\":\"exchange-{id}\"}}\n\n")
    };
    let last = "data: {\"event\":\"workflow_finished\",\"conversation_id\":\"exchange-1\"}\n\n";
    let stream = |parts: &[(u64, u64)], last: &str| {
        let parts: String = parts.iter().map(|(part, id)| event(*part, *id)).collect();
        events(1, 3, &(parts + last))
    };
    let right = [(0, 1), (1, 1), (2, 1)];
    assert_eq!(stream(&right, last), End::Whole);
    assert_eq!(stream(&right, ""), End::Short);
    for wrong in [
        &[(0, 1), (2, 1)][..],
        &[(0, 1), (1, 1)],
        &[(0, 1), (1, 1), (1, 1), (2, 1)],
        &[(0, 1), (1, 2), (2, 1)],
        &[(0, 1), (1, 1), (2, 1), (3, 1)],
    ] {
        assert!(matches!(stream(wrong, last), End::Wrong(_)), "{wrong:?}");
    }
    let torn = stream(&right[..1], "data: {\"event\":\"mess");
    assert!(matches!(torn, End::Wrong(_)));
}

#[test]
fn a_fault_explains_what_it_may_have_caused_there_and_then() {
    let failures = [
        (Kind::Prompt, refused(502, "upstream_failed"), None),
        (Kind::Stream, broken(), Some(0)),
    ];
    for (kind, end, by) in failures {
        let found = |what, from, until| {
            let mut books = Written::new();
            books.exchange(kind, end.clone(), by).happens(what, from, until);
            books.found().0
        };
        assert_eq!(found(What::At(0, Fault::Kill), 10.9, 13.0), 0);
        assert_eq!(found(What::At(1, Fault::Kill), 10.9, 13.0), 1, "another instance");
        assert_eq!(found(What::At(0, Fault::Kill), 11.5, 13.0), 1, "later");
        assert_eq!(found(What::At(0, Fault::Kill), 5.0, 8.0), 1, "earlier");
        assert_eq!(found(What::At(0, Fault::Slow), 10.0, 13.0), 1, "another kind");
        assert_eq!(found(What::Upgrade, 10.0, 11.0), 1, "an upgrade excuses nothing");
        assert_eq!(found(What::Lapse, 10.0, 11.0), 1, "and neither does this process");
    }
    let mut cut = Written::new();
    cut.exchange(Kind::Socket, broken(), Some(0))
        .happens(What::At(0, Fault::Kill), 10.9, 13.0);
    assert_eq!(cut.found().0, 1, "a WebSocket ends with a close frame");
    let mut ended = Written::new();
    ended
        .exchange(Kind::Get, broken(), None)
        .happens(What::At(0, Fault::Kill), 10.9, 13.0);
    assert_eq!(ended.found().0, 1, "the gate answers before it closes");
}

#[test]
fn nobody_may_serve_only_where_all_of_a_pool_are_out() {
    let found = |out: &[Who], until: f64| {
        let mut books = Written::new();
        books.exchange(Kind::Get, refused(503, "no_endpoint"), None);
        for who in out {
            books.happens(What::At(*who, Fault::Kill), 1.0, until);
        }
        books.found().0
    };
    assert_eq!(found(&[0, 1, 2], 12.0), 0);
    assert_eq!(found(&[0, 1, 2], 9.0), 0, "they have just come back");
    assert_eq!(found(&[0, 1, 2], 5.0), 1, "they have long been back");
    assert_eq!(found(&[0, 1], 12.0), 1);
    assert_eq!(found(&[0, 1, 3], 12.0), 1, "of two pools");
}

#[test]
fn an_answer_that_is_late_without_a_hold_is_found() {
    let found = |faults: &[(What, f64, f64)]| {
        let mut books = Written::new();
        books.exchange(Kind::Get, End::Whole, Some(0));
        books.books.seen[0].began = Some(books.at(16.0));
        books.books.seen[0].ended = books.at(16.0);
        for (what, from, until) in faults {
            books.happens(*what, *from, *until);
        }
        books.found().0
    };
    assert_eq!(found(&[]), 1);
    assert_eq!(found(&[(What::At(0, Fault::Freeze), 9.0, 15.0)]), 0);
    assert_eq!(found(&[(What::At(0, Fault::Refuses), 9.0, 15.0)]), 1);
}

#[test]
fn what_goes_against_an_order_is_found() {
    for (order, is_against) in [
        (What::Away(0, "maintenance"), true),
        (What::Away(1, "maintenance"), false),
        (What::Paused, true),
        (What::Active(1), true),
        (What::Active(0), false),
    ] {
        let found = |from: f64, faults: &[What]| {
            let mut books = Written::new();
            books
                .exchange(Kind::Get, End::Whole, Some(0))
                .happens(order, from, 12.0);
            for fault in faults {
                books.happens(*fault, 9.0, 12.0);
            }
            books.found().1
        };
        assert_eq!(found(9.0, &[]), usize::from(is_against), "{order:?}");
        assert_eq!(found(10.01, &[]), 0, "sent before: {order:?}");
        let stands_by = order == What::Active(1);
        let with_fault = found(9.0, &[What::At(4, Fault::Refuses)]);
        assert_eq!(with_fault, usize::from(is_against && !stands_by), "{order:?}");
    }
}

#[test]
fn an_endpoint_that_is_ejected_while_it_is_well_and_a_way_back_without_a_fault_are_found() {
    let found = |what: What| {
        let mut books = Written::new();
        books.happens(what, 5.0, 8.0);
        books.books.ejections.push(Ejection {
            who: 0,
            at: books.at(10.0),
            to: "down".to_owned(),
            cause: "a guess".to_owned(),
        });
        books.books.back.push(WayBack {
            to: 0,
            flipped: books.at(7.0),
            at: books.at(9.0),
            why: "a guess".to_owned(),
        });
        books.found().1
    };
    assert_eq!(found(What::At(0, Fault::Slow)), 0);
    assert_eq!(
        found(What::At(1, Fault::Slow)),
        1,
        "the pool had a fault, and that endpoint none"
    );
    assert_eq!(found(What::At(3, Fault::Slow)), 2);
    assert_eq!(found(What::Upgrade), 2);
    assert_eq!(
        found(What::Shared("cache")),
        1,
        "a dependency that all lack takes nobody out"
    );
}
