//! Messages between two processes of the gate, on a Unix socket. Listening sockets travel beside the first one (`SCM_RIGHTS`, unix(7)); the
//! kernel tells whose process the other one is (`SO_PEERCRED`), and only that of the same user is dealt with.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};

use super::UpgradeError;

/// Sockets that the kernel lets travel with one message (`SCM_MAX_FD`, include/net/scm.h).
pub(super) const MOST: usize = 253;

/// Larger messages are none of ours: ten thousand endpoints take about five megabytes.
const LARGEST: u32 = 256 * 1024 * 1024;

/// Binds the socket where nobody but the gate's own user can reach it. It takes the place of an older one at once, also of one that is in use.
pub(super) fn bind(path: &Path) -> Result<UnixListener, UpgradeError> {
    let failed = |source| UpgradeError::Socket {
        path: path.to_owned(),
        source,
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let mode = std::fs::metadata(folder).map_err(failed)?.permissions().mode();
    if mode & 0o002 != 0 {
        return Err(UpgradeError::Shared {
            path: path.to_owned(),
            folder: folder.to_owned(),
        });
    }
    let new = path.with_extension(format!("{}.new", std::process::id()));
    // One that a process of this number left behind; where there is none, nothing is to be removed.
    let _ = std::fs::remove_file(&new);
    let bound = UnixListener::bind(&new).map_err(failed)?;
    let placed = std::fs::set_permissions(&new, PermissionsExt::from_mode(0o600));
    placed.and_then(|()| std::fs::rename(&new, path)).map_err(failed)?;
    Ok(bound)
}

/// Whether the process at the other end is of the same user, or of root.
pub(super) fn check_peer(stream: &UnixStream) -> Result<(), UpgradeError> {
    let user = stream.peer_cred()?.uid();
    if user == rustix::process::geteuid().as_raw() || user == 0 {
        Ok(())
    } else {
        Err(UpgradeError::Stranger { user })
    }
}

/// Sends a message, and sockets with it.
pub(super) async fn send(
    stream: &mut UnixStream,
    message: &impl Serialize,
    sockets: &[OwnedFd],
) -> Result<(), UpgradeError> {
    let text = serde_json::to_vec(message).map_err(io::Error::from)?;
    let length = u32::try_from(text.len()).ok().filter(|length| *length <= LARGEST);
    let head = length.ok_or(UpgradeError::Malformed("it is too long"))?.to_be_bytes();
    if sockets.is_empty() {
        stream.write_all(&head).await?;
    } else {
        let sockets: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
        stream
            .async_io(Interest::WRITABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                if !control.push(SendAncillaryMessage::ScmRights(&sockets)) {
                    return Err(io::Error::other("too many sockets for one message"));
                }
                match sendmsg(&*stream, &[IoSlice::new(&head)], &mut control, SendFlags::NOSIGNAL)? {
                    4 => Ok(()),
                    _ => Err(io::ErrorKind::WriteZero.into()),
                }
            })
            .await?;
    }
    Ok(stream.write_all(&text).await?)
}

/// Receives a message and the sockets that come with it, or `None` where the other end has closed.
pub(super) async fn receive<T: DeserializeOwned>(
    stream: &mut UnixStream,
) -> Result<Option<(T, Vec<OwnedFd>)>, UpgradeError> {
    let mut head = [0; 4];
    let (read, sockets) = stream
        .async_io(Interest::READABLE, || receive_head(stream, &mut head))
        .await?;
    match read {
        0 => return Ok(None),
        4 => {}
        _ => return Err(UpgradeError::Malformed("its length is cut off")),
    }
    let length = u32::from_be_bytes(head);
    if length > LARGEST {
        return Err(UpgradeError::Malformed("it is too long"));
    }
    let mut text = Vec::new();
    let limit = u64::from(length);
    if stream.take(limit).read_to_end(&mut text).await? as u64 != limit {
        return Err(UpgradeError::Malformed("it is cut off"));
    }
    let message = serde_json::from_slice(&text).map_err(|_| UpgradeError::Malformed("it says something else"))?;
    Ok(Some((message, sockets)))
}

/// Sends a message without sockets over one direction of the connection.
pub(super) async fn tell(writer: &mut OwnedWriteHalf, message: &impl Serialize) -> Result<(), UpgradeError> {
    let text = serde_json::to_vec(message).map_err(io::Error::from)?;
    let length = u32::try_from(text.len()).ok().filter(|length| *length <= LARGEST);
    let head = length.ok_or(UpgradeError::Malformed("it is too long"))?.to_be_bytes();
    writer.write_all(&head).await?;
    Ok(writer.write_all(&text).await?)
}

/// Receives a message without sockets, or `None` where the other end has closed.
pub(super) async fn hear<T: DeserializeOwned>(reader: &mut OwnedReadHalf) -> Result<Option<T>, UpgradeError> {
    let length = match reader.read_u32().await {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        length => length?,
    };
    if length > LARGEST {
        return Err(UpgradeError::Malformed("it is too long"));
    }
    let mut text = Vec::new();
    let limit = u64::from(length);
    if reader.take(limit).read_to_end(&mut text).await? as u64 != limit {
        return Err(UpgradeError::Malformed("it is cut off"));
    }
    serde_json::from_slice(&text).map_err(|_| UpgradeError::Malformed("it says something else"))
}

fn receive_head(stream: &UnixStream, head: &mut [u8; 4]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        stream,
        &mut [IoSliceMut::new(head)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut sockets = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            sockets.extend(received);
        }
    }
    Ok((received.bytes, sockets))
}
