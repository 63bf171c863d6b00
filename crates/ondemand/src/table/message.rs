//! [`Message`], [`Answer`], [`Ending`]: what goes from the tables to the daemon, back, and on to the waiter.

use super::{HandleId, Kind, ObjectId, RequestId};

/// What a request asks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Body<R> {
    /// Make the object known.
    Open,
    /// Forget the handle; not answered.
    Close,
    /// Bring this.
    Read(R),
}

impl<R> Body<R> {
    /// Its opcode.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Open => Kind::Open,
            Self::Close => Kind::Close,
            Self::Read(_) => Kind::Read,
        }
    }
}

/// A request as the daemon gets it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Message<O, R> {
    /// Its number.
    pub request: RequestId,
    /// The object it is about.
    pub object: ObjectId,
    /// The opening of the object that it goes with; an OPEN makes it.
    pub handle: HandleId,
    /// What the object stands for.
    pub payload: O,
    /// What is asked.
    pub body: Body<R>,
}

impl<O, R> Message<O, R> {
    /// What an answer has to name.
    pub fn answer(&self) -> Answer {
        Answer { request: self.request, object: self.object, handle: self.handle }
    }
}

/// What an answer names. It is matched on all three, and on the kind of its reply.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Answer {
    /// The request.
    pub request: RequestId,
    /// The object it is about.
    pub object: ObjectId,
    /// The opening that its message named.
    pub handle: HandleId,
}

/// What the daemon says to a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Reply<E> {
    /// To an OPEN (`copen`): the object's size in bytes.
    Open(Result<u64, E>),
    /// To a READ (READ_COMPLETE): the bytes are there, or why not.
    Read(Result<(), E>),
}

impl<E> Reply<E> {
    /// The kind of request that it can be an answer to.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Open(_) => Kind::Open,
            Self::Read(_) => Kind::Read,
        }
    }
}

/// How a request ended, for whoever waits for it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Ending<E> {
    /// It was answered.
    Answered(Reply<E>),
    /// Its object was dropped, or the handle that it was to make was given back.
    Dropped,
    /// The cache is dead.
    Dead,
}
