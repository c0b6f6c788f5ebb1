//! What one exchange of the soak is: both ends derive it from its number and the seed, so that neither has to be told.

use std::time::Duration;

/// What the client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    Clear,
    Tls,
    /// HTTP/2 within TLS.
    Http2,
    /// HTTP/2 in the clear, with prior knowledge.
    Http2Clear,
}

/// How fast one end reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    Fast,
    /// It begins late.
    Late(Duration),
    /// It takes so many bytes at a time, and rests between.
    Slow(usize, Duration),
}

/// What goes wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// The client resets the connection after so many bytes of its body.
    ClientResets(usize),
    /// The client leaves after so many bytes of the answer.
    ClientLeaves(usize),
    /// The client ends its side of the connection behind its request, and waits for the answer.
    ClientHalfCloses,
    /// The endpoint ends the connection after so many bytes of its answer.
    OriginCuts(usize),
    /// The endpoint resets the connection after so many bytes of its answer.
    OriginResets(usize),
}

/// How an answer's end is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ends {
    Length,
    Chunked,
    /// With the connection.
    Close,
}

/// An exchange.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) id: u64,
    /// Whether its endpoint speaks HTTP/2.
    pub(crate) to_http2: bool,
    /// The bytes that go up; none for a GET.
    pub(crate) up: Option<usize>,
    /// Whether they go in chunks.
    pub(crate) chunked: bool,
    pub(crate) down: usize,
    pub(crate) ends: Ends,
    pub(crate) writes: Pace,
    pub(crate) reads: Pace,
    pub(crate) fault: Fault,
    pub(crate) kind: Kind,
}

/// How an exchange follows from its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Anything.
    Mixed,
    /// One of several that are sent without waiting.
    Pipelined,
    /// An answer of so many bytes.
    Download(usize),
    /// An upload in chunks.
    Upload,
}

/// A mix in which most bodies are small and a few have up to 20 MB.
fn size(rng: &mut fastrand::Rng) -> usize {
    match rng.u8(..100) {
        0..8 => 0,
        8..33 => rng.usize(1..1_000),
        33..60 => rng.usize(1_000..65_600),
        60..88 => rng.usize(65_600..1_000_000),
        88..97 => rng.usize(1_000_000..5_000_000),
        _ => rng.usize(5_000_000..20_000_000),
    }
}

/// A pace at which `bytes` take about two seconds at the most.
fn pace(rng: &mut fastrand::Rng, bytes: usize) -> Pace {
    match rng.u8(..10) {
        0 => Pace::Late(Duration::from_millis(rng.u64(1..400))),
        1 | 2 => {
            let steps = rng.usize(4..200);
            Pace::Slow(
                (bytes / steps).max(1_000),
                Duration::from_millis(2_000 / steps as u64 + 1),
            )
        }
        _ => Pace::Fast,
    }
}

impl Plan {
    /// The exchange of a number.
    pub(crate) fn of(seed: u64, id: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed ^ id.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let to_http2 = rng.u8(..4) == 0;
        let (up, down) = (rng.bool().then(|| size(&mut rng)), size(&mut rng));
        let fault = match rng.u8(..40) {
            0 if up.is_some_and(|up| up > 1) => Fault::ClientResets(rng.usize(..up.unwrap_or(1))),
            1 => Fault::ClientLeaves(rng.usize(..=down)),
            2 => Fault::ClientHalfCloses,
            3 if down > 1 => Fault::OriginCuts(rng.usize(..down)),
            4 if down > 1 => Fault::OriginResets(rng.usize(..down)),
            _ => Fault::None,
        };
        let mut ends = [Ends::Length, Ends::Chunked, Ends::Chunked, Ends::Close][rng.usize(..4)];
        // An answer that ends with its connection has no other end, so a part of it is a whole one.
        if matches!(fault, Fault::OriginCuts(_)) && ends == Ends::Close {
            ends = Ends::Chunked;
        }
        Self {
            id,
            to_http2,
            up,
            chunked: rng.bool(),
            down,
            ends,
            writes: pace(&mut rng, up.unwrap_or(0)),
            reads: pace(&mut rng, down),
            fault,
            kind: Kind::Mixed,
        }
    }

    /// The same as one of several that are sent without waiting: small, and without a fault.
    pub(crate) fn pipelined(seed: u64, id: u64) -> Self {
        let plan = Self::of(seed, id);
        Self {
            up: plan.up.map(|up| up % 100_000),
            down: plan.down % 300_000,
            ends: if plan.ends == Ends::Close {
                Ends::Length
            } else {
                plan.ends
            },
            writes: Pace::Fast,
            reads: Pace::Fast,
            fault: Fault::None,
            kind: Kind::Pipelined,
            ..plan
        }
    }

    /// A plain exchange.
    fn plain(id: u64) -> Self {
        Self {
            id,
            to_http2: false,
            up: None,
            chunked: false,
            down: 0,
            ends: Ends::Length,
            writes: Pace::Fast,
            reads: Pace::Fast,
            fault: Fault::None,
            kind: Kind::Mixed,
        }
    }

    /// One that brings so many bytes down.
    pub(crate) fn download(id: u64, down: usize) -> Self {
        Self {
            down,
            kind: Kind::Download(down),
            ..Self::plain(id)
        }
    }

    /// One whose upload goes in chunks.
    pub(crate) fn upload(seed: u64, id: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed ^ id.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let up = match rng.u8(..20) {
            0 => 0,
            1..9 => rng.usize(1..2_000),
            9..18 => rng.usize(2_000..300_000),
            _ => rng.usize(300_000..3_000_000),
        };
        Self {
            to_http2: rng.u8(..4) == 0,
            up: Some(up),
            chunked: true,
            down: 20,
            kind: Kind::Upload,
            ..Self::plain(id)
        }
    }

    /// Where it is asked for.
    pub(crate) fn target(&self) -> String {
        let place = if self.to_http2 { "two" } else { "one" };
        let how = match self.kind {
            Kind::Mixed => "mixed".to_owned(),
            Kind::Pipelined => "pipelined".to_owned(),
            Kind::Download(bytes) => bytes.to_string(),
            Kind::Upload => "upload".to_owned(),
        };
        format!("/{place}/{how}/{}", self.id)
    }

    /// The exchange that a target asks for.
    pub(crate) fn asked(seed: u64, target: &str) -> Option<Self> {
        let mut words = target.strip_prefix('/')?.split('/').skip(1);
        let how = words.next()?;
        let id = words.next()?.parse().ok()?;
        Some(match how {
            "mixed" => Self::of(seed, id),
            "pipelined" => Self::pipelined(seed, id),
            "upload" => Self::upload(seed, id),
            bytes => Self::download(id, bytes.parse().ok()?),
        })
    }

    /// What is to be served as it was asked for.
    pub(crate) fn is_faultless(&self) -> bool {
        matches!(self.fault, Fault::None | Fault::ClientHalfCloses)
    }

    /// The random numbers of one of its ends.
    pub(crate) fn rng(&self, end: u64) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.id.wrapping_mul(31) ^ end)
    }
}
