//! [`Message`]: what a read of /dev/cachefiles returns, parsed from bytes.
//!
//! Layout: include/uapi/linux/cachefiles.h (v6.12). One read returns one message of at most 1,024 bytes. The lengths in
//! it are checked against each other before anything is taken from them.

use std::os::fd::RawFd;

use larder_fscache::ObjectRange;

/// `CACHEFILES_MSG_MAX_SIZE`.
pub(super) const MESSAGE_BYTES_MAX: usize = 1024;

const HEADER_BYTES: usize = 16;
const OPEN_BYTES: usize = HEADER_BYTES + 16;
const READ_BYTES: usize = HEADER_BYTES + 16;
const OPCODE_OPEN: u32 = 0;
const OPCODE_CLOSE: u32 = 1;
const OPCODE_READ: u32 = 2;

/// The kernel's number of a request; it is given again after 2³² others.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct MessageId(pub(super) u32);

/// The kernel's number of one opening of an object: new at every OPEN.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct OpeningId(pub(super) u32);

/// A request of the kernel's.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Message {
    pub(super) id: MessageId,
    pub(super) opening: OpeningId,
    pub(super) body: Body,
}

/// What is asked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Body {
    /// Say how large the object is, by `copen`.
    Open(Open),
    /// Bring a range, then say so by READ_COMPLETE.
    Read(ObjectRange),
    /// Close the descriptor. Not answered.
    Close,
}

/// An OPEN.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Open {
    /// The object's name.
    pub(super) name: Name,
    /// A new descriptor in this process, through which the object is filled; nobody has closed or kept it yet.
    pub(super) fd: RawFd,
}

/// What an object is called.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Name {
    /// Without the final NUL. EROFS makes it of `erofs,` and the domain.
    pub(super) volume: Box<[u8]>,
    pub(super) cookie: Box<[u8]>,
}

/// What is no message of the kernel's.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("a message of {0} bytes has no header")]
    Header(usize),
    #[error("message {id:?} says that it has {said} bytes, and has {found}")]
    Length { id: MessageId, said: u32, found: usize },
    #[error("message {id:?} has opcode {opcode}")]
    Opcode { id: MessageId, opcode: u32 },
    /// An OPEN has to be answered, and its descriptor to be closed, all the same.
    #[error("OPEN {id:?} has keys of {volume} and {cookie} bytes in {found}")]
    Keys { id: MessageId, fd: RawFd, volume: u32, cookie: u32, found: usize },
    #[error("OPEN {id:?} has no descriptor: {fd}")]
    Descriptor { id: MessageId, fd: RawFd },
    #[error("READ {id:?} of {len} bytes at {start} ends beyond the last offset")]
    Range { id: MessageId, opening: OpeningId, start: u64, len: u64 },
}

/// Reads one message; `bytes` is what one read returned.
pub(super) fn parse(bytes: &[u8]) -> Result<Message, Malformed> {
    let found = bytes.len();
    let header = |at| u32_at(bytes, at).ok_or(Malformed::Header(found));
    let (id, opcode, said) = (MessageId(header(0)?), header(4)?, header(8)?);
    let opening = OpeningId(header(12)?);
    if usize::try_from(said) != Ok(found) {
        return Err(Malformed::Length { id, said, found });
    }
    let body = match opcode {
        OPCODE_OPEN => Body::Open(open(id, bytes)?),
        OPCODE_READ => Body::Read(range(id, opening, bytes)?),
        OPCODE_CLOSE if found == HEADER_BYTES => Body::Close,
        OPCODE_CLOSE => return Err(Malformed::Length { id, said, found }),
        _ => return Err(Malformed::Opcode { id, opcode }),
    };
    Ok(Message { id, opening, body })
}

fn open(id: MessageId, bytes: &[u8]) -> Result<Open, Malformed> {
    let found = bytes.len();
    let short = Malformed::Length { id, said: u32::try_from(found).unwrap_or(u32::MAX), found };
    let field = |at| u32_at(bytes, at).ok_or_else(|| short.clone());
    let (volume, cookie, fd) = (field(16)?, field(20)?, field(24)?.cast_signed());
    field(28)?;
    if fd < 0 {
        return Err(Malformed::Descriptor { id, fd });
    }
    let name = keys(bytes.get(OPEN_BYTES..).unwrap_or(&[]), volume, cookie);
    let name = name.ok_or(Malformed::Keys { id, fd, volume, cookie, found })?;
    Ok(Open { name, fd })
}

/// The keys fill the rest of the message; the volume's size counts its NUL, the cookie's has none to count.
fn keys(data: &[u8], volume: u32, cookie: u32) -> Option<Name> {
    let (volume, cookie) = (usize::try_from(volume).ok()?, usize::try_from(cookie).ok()?);
    if volume.checked_add(cookie)? != data.len() {
        return None;
    }
    let (volume, cookie) = data.split_at_checked(volume)?;
    let (nul, volume) = volume.split_last()?;
    if *nul != 0 || volume.contains(&0) || cookie.is_empty() {
        return None;
    }
    Some(Name { volume: volume.into(), cookie: cookie.into() })
}

fn range(id: MessageId, opening: OpeningId, bytes: &[u8]) -> Result<ObjectRange, Malformed> {
    let found = bytes.len();
    let (Some(start), Some(len), true) = (u64_at(bytes, 16), u64_at(bytes, 24), found == READ_BYTES) else {
        return Err(Malformed::Length { id, said: u32::try_from(found).unwrap_or(u32::MAX), found });
    };
    if start.checked_add(len).is_none() {
        return Err(Malformed::Range { id, opening, start, len });
    }
    Ok(ObjectRange::at(start, len))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(opcode: u32, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(HEADER_BYTES + body.len()).unwrap();
        let mut bytes = Vec::new();
        for word in [7, opcode, len, 3] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(body);
        bytes
    }

    fn open_body(volume: u32, cookie: u32, fd: i32, keys: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        for word in [volume, cookie, fd.cast_unsigned(), 0] {
            body.extend(word.to_ne_bytes());
        }
        body.extend(keys);
        body
    }

    fn read_body(start: u64, len: u64) -> Vec<u8> {
        [start.to_ne_bytes(), len.to_ne_bytes()].concat()
    }

    /// What Linux 6.1 was seen to send.
    #[test]
    fn the_messages_of_a_real_kernel_are_understood() {
        let open = message(0, &open_body(15, 8, 9, b"erofs,test.img\0test.img"));
        assert_eq!(open.len(), 55);
        let name = Name { volume: (*b"erofs,test.img").into(), cookie: (*b"test.img").into() };
        let (id, opening) = (MessageId(7), OpeningId(3));
        assert_eq!(parse(&open), Ok(Message { id, opening, body: Body::Open(Open { name, fd: 9 }) }));
        let read = Body::Read(ObjectRange::at(4096, 131_072));
        assert_eq!(parse(&message(2, &read_body(4096, 131_072))), Ok(Message { id, opening, body: read }));
        assert_eq!(parse(&message(1, b"")), Ok(Message { id, opening, body: Body::Close }));
    }

    #[test]
    fn what_contradicts_itself_is_refused_and_says_what_has_to_be_answered() {
        let id = MessageId(7);
        let keys = |volume, cookie, keys: &[u8]| {
            let bytes = message(0, &open_body(volume, cookie, 9, keys));
            (bytes.clone(), Malformed::Keys { id, fd: 9, volume, cookie, found: bytes.len() })
        };
        let length = |bytes: &[u8]| {
            let found = bytes.len();
            (bytes.to_vec(), Malformed::Length { id, said: u32::try_from(found).unwrap(), found })
        };
        let mut longer = message(2, &read_body(0, 4096));
        longer.push(0);
        let mut huge = message(1, b"");
        huge[8..12].copy_from_slice(&u32::MAX.to_ne_bytes());
        let table = [
            (Vec::new(), Malformed::Header(0)),
            (vec![0; 15], Malformed::Header(15)),
            (huge, Malformed::Length { id, said: u32::MAX, found: 16 }),
            (longer, Malformed::Length { id, said: 32, found: 33 }),
            (message(3, b""), Malformed::Opcode { id, opcode: 3 }),
            (message(u32::MAX, b""), Malformed::Opcode { id, opcode: u32::MAX }),
            length(&message(1, b"more")),
            length(&message(2, &[0; 15])),
            length(&message(2, &[0; 17])),
            length(&message(0, &[0; 12])),
            keys(15, 9, b"erofs,test.img\0test.img"),
            keys(15, 7, b"erofs,test.img\0test.img"),
            keys(u32::MAX, 8, b"erofs,test.img\0test.img"),
            keys(15, u32::MAX, b"erofs,test.img\0test.img"),
            keys(0, 8, b"test.img"),
            keys(14, 9, b"erofs,test.img\0test.img"),
            keys(3, 1, b"a\0\0b"),
            keys(23, 0, b"erofs,test.img\0test.im\0"),
            keys(1, 0, b"\0"),
            (message(0, &open_body(2, 1, -1, b"a\0b")), Malformed::Descriptor { id, fd: -1 }),
            (
                message(2, &read_body(u64::MAX, 1)),
                Malformed::Range { id, opening: OpeningId(3), start: u64::MAX, len: 1 },
            ),
        ];
        for (bytes, expected) in table {
            assert_eq!(parse(&bytes), Err(expected), "{bytes:?}");
        }
    }

    /// Every message cut short anywhere, and with every byte changed: an answer, never a panic.
    #[test]
    fn no_bytes_break_the_parser() {
        for message in [
            message(0, &open_body(15, 8, 9, b"erofs,test.img\0test.img")),
            message(2, &read_body(4096, 131_072)),
            message(1, b""),
        ] {
            for end in 0..message.len() {
                assert!(parse(&message[..end]).is_err(), "cut at {end}");
            }
            for at in 0..message.len() {
                for flip in [1, 0x80, 0xff] {
                    let mut changed = message.clone();
                    changed[at] ^= flip;
                    if let Ok(Message { body: Body::Open(open), .. }) = parse(&changed) {
                        assert!(open.name.volume.len() + open.name.cookie.len() < MESSAGE_BYTES_MAX);
                    }
                }
            }
        }
    }
}
