//! [`Refused`]: what the tables do not do, and why.

use super::{HandleId, Kind, ObjectId, RequestId};

/// Why the tables did not do what they were asked. Nothing has changed then.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// Everything was flushed for good.
    #[error("the cache is dead")]
    Dead,
    /// The object is going, or gone.
    #[error("object {object} is being dropped")]
    Dropping {
        /// The object.
        object: ObjectId,
    },
    /// There is no such request: it was never made, or it is over.
    #[error("request {request} is not known")]
    UnknownRequest {
        /// The request.
        request: RequestId,
    },
    /// The answer is for a request of another kind.
    #[error("request {request} is a {asked} and was answered as a {answered}")]
    Kind {
        /// The request.
        request: RequestId,
        /// What it is.
        asked: Kind,
        /// What it was taken for.
        answered: Kind,
    },
    /// The answer came through another object, or through an opening that is over.
    #[error("request {request} was answered through handle {handle}, which it is not about")]
    Handle {
        /// The request.
        request: RequestId,
        /// The handle that the answer named.
        handle: HandleId,
    },
    /// Nobody has been given the request yet, or it has become new again since.
    #[error("request {request} has not been delivered")]
    NotDelivered {
        /// The request.
        request: RequestId,
    },
    /// Nobody waits for the answer any more.
    #[error("request {request} was cancelled")]
    Cancelled {
        /// The request.
        request: RequestId,
    },
    /// The object is open.
    #[error("object {object} is open already")]
    AlreadyOpen {
        /// The object.
        object: ObjectId,
    },
    /// As many wait as may: one has to be answered first.
    #[error("too many requests or objects wait: {limit}")]
    Full {
        /// The bound that was reached.
        limit: usize,
    },
}

impl Refused {
    /// The error number that the kernel's interface has for it.
    pub fn errno(&self) -> i32 {
        const EIO: i32 = 5;
        const EAGAIN: i32 = 11;
        const EEXIST: i32 = 17;
        const EINVAL: i32 = 22;
        match self {
            Self::Dead | Self::Dropping { .. } => EIO,
            Self::AlreadyOpen { .. } => EEXIST,
            Self::Full { .. } => EAGAIN,
            Self::UnknownRequest { .. }
            | Self::Kind { .. }
            | Self::Handle { .. }
            | Self::NotDelivered { .. }
            | Self::Cancelled { .. } => EINVAL,
        }
    }

    /// What the operator can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Full { .. } => Some("the source is slower than its readers: see the blob's last error"),
            _ => None,
        }
    }
}
