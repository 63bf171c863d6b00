//! [`Place`]: a reference with a connection to where it lies.

use std::sync::Arc;

use larder_image::{LayoutRepository, Reference, RegistryRepository, Repository, Version};
use larder_remote::{HttpClient, Registry};

use super::patient::Patient;

/// A reference with a connection to where it lies.
pub struct Place {
    /// Whoever has the image.
    pub repository: Arc<dyn Repository>,
    /// Which image there.
    pub version: Version,
    /// The connection, where it counts what crosses it.
    pub registry: Option<Registry>,
}

/// Finds the place that `reference` names; asks no server anything. Blocks on the file system for a layout.
///
/// # Errors
///
/// When a directory is no layout, or a host's address cannot be understood.
pub fn connect(reference: &Reference, insecure: bool, http: &HttpClient) -> anyhow::Result<Place> {
    let version = reference.version().clone();
    Ok(match reference {
        Reference::Layout { dir, .. } => {
            Place { repository: Arc::new(LayoutRepository::open(dir)?), version, registry: None }
        }
        Reference::Registry { host, repository, .. } => {
            let registry = if insecure {
                Registry::insecure(http.clone(), host, repository)?
            } else {
                Registry::new(http.clone(), host, repository)?
            };
            let repository = Arc::new(RegistryRepository::new(registry.clone()));
            Place { repository, version, registry: Some(registry) }
        }
    })
}

/// The same for an image that is to be mounted: a layout has to be there, and its file system is waited for on few threads, and
/// not for ever.
///
/// # Errors
///
/// As there, and when the file system does not answer.
pub async fn connect_in_time(
    reference: &Reference,
    insecure: bool,
    http: &HttpClient,
) -> anyhow::Result<Place> {
    if matches!(reference, Reference::Registry { .. }) {
        return connect(reference, insecure, http);
    }
    let repository = Arc::new(Patient::new(reference, insecure, http).insisting().await?);
    Ok(Place { repository, version: reference.version().clone(), registry: None })
}

/// The same for an image whose manifest and indexes are here: a place, or a blob of it, that is away is looked for again
/// when it is read, and until then what is cached is served. Touches no layout, whose file system may hang.
pub fn connect_patiently(reference: &Reference, insecure: bool, http: &HttpClient) -> Place {
    let patient = Patient::new(reference, insecure, http);
    let away = |patient| Place {
        repository: Arc::new(patient),
        version: reference.version().clone(),
        registry: None,
    };
    if matches!(reference, Reference::Layout { .. }) {
        return away(patient);
    }
    match connect(reference, insecure, http) {
        Ok(place) => Place { repository: Arc::new(patient.found(place.repository)), ..place },
        Err(error) => {
            tracing::warn!("{reference}: {error:#}");
            away(patient)
        }
    }
}

impl Place {
    /// Bytes and requests that crossed the connection so far; `None` where nobody counts.
    pub fn cost(&self) -> Option<(u64, u64)> {
        let reading = self.registry.as_ref()?.meter().read();
        Some((reading.bytes, reading.requests))
    }
}
