//! [`Spec`]: what an object must be.

use larder_fscache::ObjectSpec;

/// What an object must be for its bytes to be taken up.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Spec {
    /// Bytes.
    pub size: u64,
    /// What the client says the content is; none when anything will do.
    pub aux: Option<Vec<u8>>,
}

impl Spec {
    /// Exactly this.
    pub fn of(spec: &ObjectSpec) -> Self {
        Self { size: spec.size, aux: Some(spec.aux.as_bytes().to_vec()) }
    }

    /// An object of this size, whatever it is.
    pub fn any(size: u64) -> Self {
        Self { size, aux: None }
    }
}
