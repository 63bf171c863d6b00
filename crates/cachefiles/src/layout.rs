//! [`Place`]: where an object is kept, on disk and with the holder.

use larder_fscache::{CookieKey, VolumeKey};

use crate::object::Name;

/// The folder of unfinished files, below the root.
pub(crate) const TMP: &str = "tmp";
/// The folder of volumes, below the root.
pub(crate) const CACHE: &str = "cache";
/// The folder of what is to be deleted, below the root.
pub(crate) const GRAVEYARD: &str = "graveyard";
/// The file that says what the folder is, below the root.
pub(crate) const FORMAT: &str = "format";
/// The file with the reserve, below the root.
pub(crate) const RESERVE: &str = "reserve";
/// The file of the index, below the root.
pub(crate) const INDEX: &str = "index.redb";
/// What the name of a durable map ends with. '@' cannot stand in a key, so no data file has such a name.
const MAP_SUFFIX: &str = "@map";
/// What the name of a pin ends with: an empty file that keeps its object from being culled.
const PIN_SUFFIX: &str = "@pin";
/// Longest name that a holder takes.
const HELD_NAME_BYTES_MAX: usize = 200;

/// Every name of one object. Paths are relative to the root.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub volume: VolumeKey,
    pub cookie: CookieKey,
    /// The folder of the volume.
    pub volume_dir: String,
    /// The folder that holds the two files.
    pub dir: String,
    /// The data file.
    pub data: String,
    /// The durable map.
    pub map: String,
    /// The pin.
    pub pin: String,
    /// The live map's name with the holder.
    pub live: String,
    /// The fill descriptor's name with the holder.
    pub fill: String,
}

impl Place {
    pub fn new(volume: &VolumeKey, cookie: &CookieKey) -> Self {
        let volume_dir = volume_dir(volume);
        let dir = format!("{volume_dir}/{:02x}", hash(cookie.as_str()) & 0xff);
        let data = format!("{dir}/{cookie}");
        let map = format!("{data}{MAP_SUFFIX}");
        let pin = format!("{data}{PIN_SUFFIX}");
        let whole = format!("{volume}/{cookie}");
        Self {
            volume: volume.clone(),
            cookie: cookie.clone(),
            live: held_name("live", &whole),
            fill: held_name("fill", &whole),
            volume_dir,
            dir,
            data,
            map,
            pin,
        }
    }

    /// Whose fill descriptor has this name with the holder, if any has and its name says so.
    pub fn of_held(name: &str) -> Option<(VolumeKey, CookieKey)> {
        let (volume, cookie) = name.strip_prefix("fill/")?.split_once('/')?;
        Some((VolumeKey::new(volume).ok()?, CookieKey::new(cookie).ok()?))
    }

    /// What the object is known by.
    pub fn object(&self) -> Name {
        (self.volume.clone(), self.cookie.clone())
    }

    /// Volume and key in one: what the header of the live map is compared with.
    pub fn name(&self) -> String {
        format!("{}/{}", self.volume, self.cookie)
    }

    /// What the attribute of the data file is compared with.
    pub fn name_hash(&self) -> u64 {
        hash(&self.name())
    }
}

/// The names under which the holder has what belongs to one object: its live map, and its fill descriptor.
pub fn held_names(volume: &VolumeKey, cookie: &CookieKey) -> [String; 2] {
    let Place { live, fill, .. } = Place::new(volume, cookie);
    [live, fill]
}

/// Whether what the holder has under `name` belongs to one object: one that [`held_names`] tells of.
pub fn is_held_for_object(name: &str) -> bool {
    name.starts_with("live/") || name.starts_with("fill/")
}

/// What a file in an object folder is, by its name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Part<'a> {
    Data(&'a str),
    Map(&'a str),
    Pin(&'a str),
}

/// Says what a file in an object folder is, and of which key.
pub(crate) fn part_of(file_name: &str) -> Part<'_> {
    if let Some(key) = file_name.strip_suffix(MAP_SUFFIX) {
        Part::Map(key)
    } else if let Some(key) = file_name.strip_suffix(PIN_SUFFIX) {
        Part::Pin(key)
    } else {
        Part::Data(file_name)
    }
}

/// The folder of a volume.
pub(crate) fn volume_dir(volume: &VolumeKey) -> String {
    format!("{CACHE}/{volume}")
}

/// The folder that a path lies in.
pub(crate) fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// Two long keys together may pass the holder's limit. Then a hash stands for them; should two ever
/// collide, the header of the live map still has the full name and is refused.
fn held_name(kind: &str, whole: &str) -> String {
    let name = format!("{kind}/{whole}");
    if name.len() <= HELD_NAME_BYTES_MAX { name } else { format!("{kind}/@{:016x}", hash(whole)) }
}

/// FNV-1a, 64 bits: spreads names over folders. Part of the layout on disk, so it never changes.
pub(crate) fn hash(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(volume: &str, cookie: &str) -> Place {
        Place::new(&VolumeKey::new(volume).expect("valid"), &CookieKey::new(cookie).expect("valid"))
    }

    #[test]
    fn the_layout_on_disk_does_not_change() {
        let place = place("images", "sha256-00");
        assert_eq!(place.dir, "cache/images/3d");
        assert_eq!(place.data, "cache/images/3d/sha256-00");
        assert_eq!(place.map, "cache/images/3d/sha256-00@map");
        assert_eq!(place.pin, "cache/images/3d/sha256-00@pin");
        assert_eq!(part_of("sha256-00"), Part::Data("sha256-00"));
        assert_eq!(part_of("sha256-00@map"), Part::Map("sha256-00"));
        assert_eq!(part_of("sha256-00@pin"), Part::Pin("sha256-00"));
        assert_eq!(
            (place.live.as_str(), place.fill.as_str()),
            ("live/images/sha256-00", "fill/images/sha256-00")
        );
    }

    #[test]
    fn no_two_objects_share_a_file() {
        let names = ["a", "a.map", "a-map", "a_map"].map(|key| place("v", key));
        for one in &names {
            for other in &names {
                assert_ne!(one.map, other.data);
                assert_ne!(one.pin, other.data);
                assert_ne!(one.pin, other.map);
                assert_eq!(one.map == other.map, one.cookie == other.cookie);
            }
        }
    }

    #[test]
    fn names_for_the_holder_stay_within_its_limit() {
        let (long, other) = ("k".repeat(200), "l".repeat(200));
        let place_long = place(&long, &long);
        assert_eq!(Place::of_held(&place_long.fill), None);
        let short = place("images", "sha256-00");
        assert_eq!(Place::of_held(&short.fill), Some((short.volume.clone(), short.cookie.clone())));
        assert_eq!(Place::of_held(&short.live), None);
        assert!(place_long.live.len() <= 200 && place_long.fill.len() <= 200);
        assert_ne!(place_long.live, place_long.fill);
        assert_ne!(place_long.live, place(&long, &other).live);
        for place in [place_long, short] {
            let names = held_names(&place.volume, &place.cookie);
            assert!(names.iter().all(|name| is_held_for_object(name)), "{names:?}");
            assert_eq!(names, [place.live, place.fill]);
        }
        assert!(!is_held_for_object("lock"));
    }
}
