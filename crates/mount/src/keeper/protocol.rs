//! The one message that keeper and worker exchange, and how it travels.
//!
//! ```text
//! offset  0  u32  magic
//!         4  u16  op
//!         6  u16  length of the name
//!         8  u64  value (END: how often the worker was started again; ADOPT: 1 from a stand-in)
//!        16  224  name, padded with zeros (END: the keeper's version of the protocol, in decimal)
//! ```
//!
//! Native byte order: both ends run on the same machine. At most one descriptor travels with it. A keeper lives on
//! while workers of newer releases come and go, so that it says which version it speaks.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

const MAGIC: u32 = 0x4c4b_5031;

/// Version of the protocol. 1 had neither PROGRAM nor READY nor ALIVE, and no version in END.
pub const PROTOCOL_VERSION: u32 = 2;

/// The value of [`Op::Adopt`] from somebody who stands in for workers.
pub(super) const STANDS_IN: u64 = 1;

/// The first version with PROGRAM, READY and ALIVE.
pub(super) const HAS_PROGRAM: u32 = 2;

const HEADER_BYTES: usize = 16;
/// Longest name of a kept descriptor, in bytes.
pub const NAME_BYTES_MAX: usize = 224;
const MESSAGE_BYTES: usize = HEADER_BYTES + NAME_BYTES_MAX;

/// What a message asks or says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Op {
    /// Worker: keep this descriptor under this name.
    Keep,
    /// Worker: forget this name.
    Release,
    /// Worker: a clean shutdown follows; do not start another worker.
    Stop,
    /// Keeper: this was kept.
    Have,
    /// Keeper: that was all.
    End,
    /// Worker, to a keeper that it has started: the descriptor is the worker's pidfd.
    Adopt,
    /// Worker: later workers have the command line in this descriptor.
    Program,
    /// Worker: it has taken up what was kept, and serves.
    Ready,
    /// Worker: it is not stuck.
    Alive,
}

impl Op {
    const ALL: [(Self, u16); 9] = [
        (Self::Keep, 1),
        (Self::Release, 2),
        (Self::Stop, 3),
        (Self::Have, 4),
        (Self::End, 5),
        (Self::Adopt, 6),
        (Self::Program, 7),
        (Self::Ready, 8),
        (Self::Alive, 9),
    ];

    fn number(self) -> u16 {
        Self::ALL.iter().find(|(op, _)| *op == self).map_or(0, |(_, number)| *number)
    }

    fn from_number(number: u16) -> Option<Self> {
        Self::ALL.iter().find(|(_, n)| *n == number).map(|(op, _)| *op)
    }
}

/// A valid name: 1 to [`NAME_BYTES_MAX`] bytes of UTF-8 without NUL.
pub(super) fn check_name(name: &str) -> io::Result<()> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains('\0') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a kept name has 1 to 224 bytes"));
    }
    Ok(())
}

/// One parsed message.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) op: Op,
    pub(super) value: u64,
    pub(super) name: String,
    pub(super) fd: Option<OwnedFd>,
}

/// What arrived on the socket.
#[derive(Debug)]
pub(super) enum Received {
    Message(Message),
    /// Something that is no message of ours; its descriptors were closed.
    Garbage,
    /// The other side is gone.
    End,
}

/// Makes the socket pair; close-on-exec on both ends.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends one message, whole or not at all, so that threads need no lock around it.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    op: Op,
    value: u64,
    name: &str,
    fd: Option<BorrowedFd<'_>>,
    flags: SendFlags,
) -> io::Result<()> {
    let bytes = encode(op, value, name)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = fd.as_slice();
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let flags = flags | SendFlags::NOSIGNAL;
    rustix::io::retry_on_intr(|| sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, flags))?;
    Ok(())
}

/// Receives one message.
pub(super) fn receive(socket: BorrowedFd<'_>, flags: RecvFlags) -> io::Result<Received> {
    let mut bytes = [0; MESSAGE_BYTES + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut iov = [IoSliceMut::new(&mut bytes)];
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let got = match rustix::io::retry_on_intr(|| recvmsg(socket, &mut iov, &mut control, flags)) {
        Ok(got) => got.bytes,
        Err(rustix::io::Errno::CONNRESET) => return Ok(Received::End),
        Err(error) => return Err(error.into()),
    };
    let mut fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let fd = fds.next().and_then(|mut fds| fds.next());
    if got == 0 {
        return Ok(Received::End);
    }
    Ok(match decode(bytes.get(..got).unwrap_or_default()) {
        Some((op, value, name)) => Received::Message(Message { op, value, name, fd }),
        None => Received::Garbage,
    })
}

fn encode(op: Op, value: u64, name: &str) -> io::Result<[u8; MESSAGE_BYTES]> {
    if !name.is_empty() {
        check_name(name)?;
    }
    let length = u16::try_from(name.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut bytes = [0; MESSAGE_BYTES];
    bytes[0..4].copy_from_slice(&MAGIC.to_ne_bytes());
    bytes[4..6].copy_from_slice(&op.number().to_ne_bytes());
    bytes[6..8].copy_from_slice(&length.to_ne_bytes());
    bytes[8..16].copy_from_slice(&value.to_ne_bytes());
    bytes[HEADER_BYTES..HEADER_BYTES + name.len()].copy_from_slice(name.as_bytes());
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> Option<(Op, u64, String)> {
    let bytes: &[u8; MESSAGE_BYTES] = bytes.try_into().ok()?;
    let (magic, rest) = bytes.split_first_chunk::<4>()?;
    let (op, rest) = rest.split_first_chunk::<2>()?;
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let (value, name) = rest.split_first_chunk::<8>()?;
    if u32::from_ne_bytes(*magic) != MAGIC {
        return None;
    }
    let op = Op::from_number(u16::from_ne_bytes(*op))?;
    let name = name.get(..usize::from(u16::from_ne_bytes(*length)))?;
    let name = String::from_utf8(name.to_vec()).ok()?;
    if matches!(op, Op::Keep | Op::Release | Op::Have) {
        check_name(&name).ok()?;
    }
    Some((op, u64::from_ne_bytes(*value), name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn every_op_survives_the_trip_with_name_value_and_descriptor() {
        let (one, two) = pair().unwrap();
        let longest = "n".repeat(NAME_BYTES_MAX);
        for (op, _) in Op::ALL {
            send(one.as_fd(), op, 9, &longest, Some(two.as_fd()), SendFlags::empty()).unwrap();
            let Received::Message(message) = receive(two.as_fd(), RecvFlags::empty()).unwrap() else {
                panic!("{op:?} did not arrive");
            };
            assert_eq!((message.op, message.value, message.name), (op, 9, longest.clone()));
            assert!(message.fd.is_some());
        }
    }

    #[test]
    fn names_that_are_empty_too_long_or_hold_nul_are_refused() {
        for name in ["", "a\0b", &"n".repeat(NAME_BYTES_MAX + 1)] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn anything_but_a_whole_message_of_ours_is_garbage() {
        let good = encode(Op::Keep, 0, "name").unwrap();
        assert!(decode(&good).is_some());
        assert!(decode(&good[..good.len() - 1]).is_none());
        assert!(decode(&[good.as_slice(), &[0]].concat()).is_none());
        for (at, value) in [(0, 0xff), (4, 0x77), (7, 0xff), (16, 0xff), (6, 0)] {
            let mut bad = good;
            bad[at] = value;
            assert!(decode(&bad).is_none(), "byte {at}");
        }
    }

    #[test]
    fn a_closed_socket_is_the_end() {
        let (one, two) = pair().unwrap();
        drop(one);
        assert!(matches!(receive(two.as_fd(), RecvFlags::empty()).unwrap(), Received::End));
        assert!(send(two.as_fd(), Op::Stop, 0, "", None, SendFlags::empty()).is_err());
    }
}
