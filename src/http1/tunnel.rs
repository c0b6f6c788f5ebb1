//! A connection after its protocol was switched: bytes pass both ways until one side ends (RFC 9110 section 7.8).

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};

use super::ROOM;
use crate::wire::Wire;

/// See the module's own words.
#[derive(Debug)]
pub struct Tunnel<S = Wire> {
    reader: ReadHalf<S>,
    writer: WriteHalf<S>,
    buffer: BytesMut,
    /// Whether something was written that TLS may still hold back.
    unsent: bool,
}

/// What passed through a tunnel.
#[derive(Debug)]
pub enum Passed {
    /// Something was sent.
    Sent,
    /// Something came.
    Received(Bytes),
    /// The other side ended it.
    Ended,
}

impl<S: AsyncRead + AsyncWrite> Tunnel<S> {
    /// A tunnel through a stream, of which this much has come already.
    pub(super) fn over(stream: S, buffer: BytesMut) -> Self {
        let (reader, writer) = split(stream);
        Self {
            reader,
            writer,
            buffer,
            unsent: false,
        }
    }

    /// Both ways at once: sends what it can of `outgoing`, or receives what is there, whichever can be done. It may be dropped and called again.
    ///
    /// # Errors
    /// What the network says.
    pub async fn pass(&mut self, outgoing: &mut Bytes) -> io::Result<Passed> {
        if !self.buffer.is_empty() {
            return Ok(Passed::Received(self.buffer.split().freeze()));
        }
        self.buffer.reserve(ROOM);
        let sends = !outgoing.is_empty() || self.unsent;
        let (writer, unsent) = (&mut self.writer, &mut self.unsent);
        let sending = async {
            if !outgoing.is_empty() {
                writer.write_buf(outgoing).await?;
                *unsent = true;
            }
            writer.flush().await?;
            *unsent = false;
            Ok(Passed::Sent)
        };
        tokio::select! {
            received = self.reader.read_buf(&mut self.buffer) => Ok(match received? {
                0 => Passed::Ended,
                _ => Passed::Received(self.buffer.split().freeze()),
            }),
            sent = sending, if sends => sent,
        }
    }
}
