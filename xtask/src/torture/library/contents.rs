//! What the registry has: every version of every object, with its chunk table.

use std::sync::Arc;

use larder_fscache::{AuxData, ObjectSpec};
use larder_image::ChunkTable;
use larder_image::chunk::{Encoding, IndexBuilder, LayerFacts};
use larder_testkit::{Content, Registry};
use sha2::{Digest as _, Sha256};

use super::super::truth;

/// Objects.
pub const OBJECTS: usize = 6;

/// Versions of each: the same size, other bytes everywhere.
pub const VERSIONS: usize = 4;

/// One version of one object.
pub struct Version {
    /// Digest of the stored blob.
    pub digest: String,
    /// How it is cut.
    pub table: Arc<ChunkTable>,
}

/// All of them, and the registry that serves them.
pub struct Contents {
    /// Serves them.
    pub registry: Registry,
    versions: Vec<Vec<Version>>,
}

impl Contents {
    /// Makes them up.
    pub fn new() -> anyhow::Result<Self> {
        let mut content = Content::default();
        let versions = (0..OBJECTS)
            .map(|object| (0..VERSIONS).map(|version| add(&mut content, object, version)).collect())
            .collect::<anyhow::Result<_>>()?;
        Ok(Self { registry: Registry::start(content), versions })
    }

    /// A version of an object.
    pub fn of(&self, object: usize, version: usize) -> &Version {
        &self.versions[object][version]
    }
}

/// The number under which the truth knows a version.
pub fn truth_of(object: usize, version: usize) -> u64 {
    1_000_000 + 100 * object as u64 + version as u64
}

/// The size of an object in bytes.
pub fn size(object: usize) -> u64 {
    [70_001, 300_003, 4096, 1_000_000, 2_500_001, 1_048_576][object % 6]
}

/// The size of its chunks: not all of them are whole blocks.
fn chunk_bytes(object: usize) -> usize {
    [65_536, 20_000, 65_536, 32_768, 65_536, 3_000][object % 6]
}

/// What a cookie of this version must be.
pub fn spec(object: usize, version: usize) -> ObjectSpec {
    let aux = AuxData::new(format!("version {version}").as_bytes()).expect("a few bytes");
    ObjectSpec { size: size(object), aux }
}

fn add(content: &mut Content, object: usize, version: usize) -> anyhow::Result<Version> {
    let mut bytes = vec![0; usize::try_from(size(object))?];
    truth::fill(truth_of(object, version), 0, &mut bytes);
    let mut builder = IndexBuilder::new(Encoding::Raw);
    let mut at = 0;
    for chunk in bytes.chunks(chunk_bytes(object)) {
        builder.push(at, at, &Sha256::digest(chunk));
        at += chunk.len() as u64;
    }
    let digest = content.add_blob(bytes);
    let index = builder.finish(at)?;
    let facts = LayerFacts { blob: &digest.parse()?, encoding: Encoding::Raw, data_end: at };
    let table = Arc::new(ChunkTable::bind(index, facts)?);
    Ok(Version { digest, table })
}
