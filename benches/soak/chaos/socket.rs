//! A client of WebSockets (RFC 6455): numbered messages to an endpoint that answers each with itself.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::sleep;

use super::client::{Exchange, Wire, broke};
use super::ledger::End;
use crate::reader::{Fault, Framed};

const TEXT: u8 = 1;
const CLOSE: u8 = 8;

/// A handshake and some messages, each of which is to come back.
pub(super) async fn talk(wire: &mut Wire, exchange: &mut Exchange, rng: &mut fastrand::Rng) -> End {
    let request = format!(
        "GET /console/api/socket HTTP/1.1\r\nHost: soak\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX-Exchange: {}\r\n\r\n",
        exchange.id
    );
    let written = wire.writer.write_all(request.as_bytes()).await;
    let head = match wire.reader.head().await {
        Ok(head) => head,
        Err(fault) => return broke(&fault, written.is_err()),
    };
    exchange.heard(&head);
    if head.status() != 101 {
        return refused(wire, &head).await;
    }
    for number in 0..rng.u32(5..40) {
        let text = format!("{}:{number}", exchange.id);
        if send(wire, TEXT, text.as_bytes()).await.is_err() {
            // Why it cannot be sent is to be read.
        }
        match receive(wire).await {
            Ok((TEXT, payload)) if payload == text.as_bytes() => {}
            Ok((CLOSE, payload)) => return told(&payload),
            Ok((_, payload)) => return End::Wrong(format!("{} came back", payload.escape_ascii())),
            Err(fault) => return broke(&fault, false),
        }
        sleep(Duration::from_millis(rng.u64(20..200))).await;
    }
    // Every message has come back. Who is asked to close may die before it answers.
    let _ = send(wire, CLOSE, &1_000_u16.to_be_bytes()).await;
    match receive(wire).await {
        Ok((CLOSE, payload)) if payload != 1_000_u16.to_be_bytes() => told(&payload),
        Ok((CLOSE, _)) | Err(Fault::Closed) => End::Whole,
        Ok((_, payload)) => End::Wrong(format!("{} instead of a close frame", payload.escape_ascii())),
        Err(fault) => broke(&fault, false),
    }
}

/// An answer that is no handshake.
async fn refused(wire: &mut Wire, head: &crate::reader::Head) -> End {
    let Ok(framed) = head.framing(Framed::UntilClose) else {
        return End::Wrong("an answer without an end".to_owned());
    };
    let read = wire.reader.body(framed).await;
    if let Some(fault) = read.fault {
        return broke(&fault, false);
    }
    let said: serde_json::Value = serde_json::from_slice(&read.body).unwrap_or_default();
    End::Refused {
        status: head.status(),
        code: said["code"].as_str().unwrap_or_default().to_owned(),
    }
}

fn told(payload: &[u8]) -> End {
    let code = payload.first_chunk().map_or(0, |code| u16::from_be_bytes(*code));
    End::Told(format!("close {code}"))
}

/// Sends a short frame, masked as a client's must be.
async fn send(wire: &mut Wire, opcode: u8, payload: &[u8]) -> std::io::Result<()> {
    let mask = [7, 31, 127, 211];
    let mut frame = vec![0x80 | opcode, 0x80 | payload.len() as u8];
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    wire.writer.write_all(&frame).await
}

/// The next short frame.
async fn receive(wire: &mut Wire) -> Result<(u8, Vec<u8>), Fault> {
    let head = wire.reader.exact(2).await?;
    let payload = wire.reader.exact(usize::from(head[1] & 0x7f)).await?;
    Ok((head[0] & 0x0f, payload))
}
