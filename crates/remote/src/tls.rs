//! TLS by rustls, with ring and the roots that the host trusts, all given explicitly.

use std::{error::Error as StdError, io, sync::Arc};

use rustls::{ClientConfig, Error as TlsError, RootCertStore, crypto::ring};

type Failure = Box<dyn StdError + Send + Sync>;

/// Returns the configuration for `https`: trusts what the host trusts. Reads the host's certificates.
pub(crate) fn trusting_the_host() -> Result<ClientConfig, Failure> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let why = found.errors.into_iter().next();
        return Err(why.map_or_else(|| "the host trusts no certificates".into(), Into::into));
    }
    Ok(config(roots)?)
}

/// Returns the configuration of a client that never speaks TLS: trusts nobody, reads nothing.
pub(crate) fn trusting_nobody() -> Result<ClientConfig, Failure> {
    Ok(config(RootCertStore::empty())?)
}

fn config(roots: RootCertStore) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Whether a failure means that the other side is not to be trusted, which no further try will change.
pub(crate) fn is_refusal(error: &(dyn StdError + 'static)) -> bool {
    let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    let refused = match error.downcast_ref::<TlsError>() {
        Some(error) => matches!(
            error,
            TlsError::InvalidCertificate(_)
                | TlsError::InvalidMessage(_)
                | TlsError::NoCertificatesPresented
                | TlsError::PeerIncompatible(_)
                | TlsError::UnsupportedNameType
        ),
        None => false,
    };
    refused || wrapped.is_some_and(|inner| is_refusal(inner)) || error.source().is_some_and(is_refusal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_found_however_deep_it_lies() {
        let refusal = || TlsError::NoCertificatesPresented;
        assert!(is_refusal(&refusal()));
        assert!(is_refusal(&io::Error::other(io::Error::other(refusal()))));
        assert!(!is_refusal(&io::Error::from(io::ErrorKind::ConnectionReset)));
        assert!(!is_refusal(&io::Error::other(TlsError::HandshakeNotComplete)));
    }
}
