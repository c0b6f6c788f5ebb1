//! Where a message is cut into segments. TCP keeps no boundaries, so every cut must come to the same message.

use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::message::Rendered;

/// A message is cut into so many segments at the most, since each of them is awaited.
const MOST: usize = 64;
/// And a short one bytewise, up to this length.
const SHORT: usize = 300;

/// How a message is cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Split {
    /// As the seed says.
    #[default]
    Random,
    Whole,
    Bytewise,
    /// At every place that is easily misread: within and around size lines and line ends.
    Marks,
    /// The body apart from its head.
    Body,
    /// In segments of so many bytes.
    Every(usize),
}

/// Cuts a message.
pub(crate) fn cut(message: &Rendered, split: Split, rng: &mut fastrand::Rng) -> Vec<Vec<u8>> {
    let length = message.bytes.len();
    let mut places: Vec<usize> = match split {
        Split::Random => match rng.u8(..10) {
            0..3 => Vec::new(),
            3 if length <= SHORT => (1..length).collect(),
            3..6 => message.marks.iter().copied().filter(|_| rng.bool()).collect(),
            _ => (0..rng.usize(1..8)).map(|_| rng.usize(..=length)).collect(),
        },
        Split::Whole => Vec::new(),
        Split::Bytewise => (1..length).collect(),
        Split::Marks => message.marks.clone(),
        Split::Body => vec![message.body],
        Split::Every(size) => (size..length).step_by(size).collect(),
    };
    if split == Split::Random && places.len() > MOST && length > SHORT {
        rng.shuffle(&mut places);
        places.truncate(MOST);
    }
    places.sort_unstable();
    places.dedup();
    let mut segments = Vec::with_capacity(places.len() + 1);
    let mut start = 0;
    for place in places.into_iter().chain([length]) {
        if place > start {
            segments.push(message.bytes[start..place].to_vec());
            start = place;
        }
    }
    segments
}

/// Writes segments so that each is likely to be read alone.
pub(crate) async fn write(stream: &mut (impl AsyncWrite + Unpin), segments: &[Vec<u8>]) -> std::io::Result<()> {
    for (index, segment) in segments.iter().enumerate() {
        if index > 0 {
            apart().await;
        }
        stream.write_all(segment).await?;
        stream.flush().await?;
    }
    Ok(())
}

/// A moment in which the other side reads what has come. What it makes of that must not depend on it.
pub(crate) async fn apart() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}
