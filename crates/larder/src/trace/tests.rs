//! What the layer promises: nothing while nobody listens, everything that was asked for while somebody does.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use larder_fscache::memory::Memory;
use larder_fscache::{AuxData, Cache, CookieKey, ObjectRange, ObjectSpec, ReadFlags, VolumeKey};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use super::record::Value;
use super::sys::allocations;
use super::*;

/// Interest in call sites is the whole process's: one test at a time changes it.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `work` under the worker's own stack: a log at `info`, and the trace layer.
fn traced<R>(work: impl FnOnce(&Arc<Hub>) -> R) -> R {
    let hub = Arc::new(Hub::default());
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::sink).with_filter(EnvFilter::new("info"));
    let stack = tracing_subscriber::registry().with(log).with(TraceLayer::over(&hub));
    tracing::subscriber::with_default(stack, || work(&hub))
}

fn emit(cookie: &str, start: u64) {
    tracing::trace!(
        target: "larder_fscache", volume = %"default", cookie = %cookie, start, len = 4096u64,
        source = ?Source::ReadFromCache, why = ?Why::HaveData, "cachefiles_prep_read"
    );
}

#[derive(Debug)]
enum Source {
    ReadFromCache,
}

#[derive(Debug)]
enum Why {
    HaveData,
}

/// What waits for a listener now.
fn drain(subscription: &mut Subscription) -> (Vec<Arc<super::record::Record>>, u64) {
    use futures_util::FutureExt as _;
    let (mut records, mut lost) = (Vec::new(), 0);
    while let Some(Some(batch)) = subscription.next().now_or_never() {
        records.extend(batch.records);
        lost += batch.lost;
    }
    (records, lost)
}

#[test]
fn p8_off_a_decision_about_present_bytes_allocates_nothing_and_asks_no_subscriber() {
    let _alone = alone();
    traced(|hub| {
        let cache = Cache::new(Memory::new());
        let (volume, key) = (VolumeKey::new("v").expect("valid"), CookieKey::new("c").expect("valid"));
        let volume = cache.acquire_volume(&volume, &AuxData::default()).expect("memory");
        let resources = volume.open(&key, &ObjectSpec::of_size(8192)).expect("memory");
        resources.write(0, &[1; 8192]).expect("fits");
        let want = ObjectRange::at(0, 4096);
        let decide = || {
            let before = allocations();
            for _ in 0..1000 {
                let _decision = std::hint::black_box(resources.prepare_ondemand_read(
                    std::hint::black_box(want),
                    u64::MAX,
                    ReadFlags::default(),
                ));
            }
            allocations() - before
        };
        decide();
        assert_eq!(decide(), 0);
        // One comparison with a number in memory stands before everything else that an event could do: `tracing`
        // looks at its level hint first, and neither lock nor subscriber is behind that.
        assert!(LevelFilter::current() < LevelFilter::TRACE);
        let mut subscription = hub.subscribe(Select::default()).expect("the first");
        assert_eq!(LevelFilter::current(), LevelFilter::TRACE);
        assert!(decide() > 0, "on, a record has to lie somewhere: the counter counts");
        assert!(!drain(&mut subscription).0.is_empty());
        drop(subscription);
        assert_eq!(decide(), 0, "off again");
        assert!(LevelFilter::current() < LevelFilter::TRACE);
    });
}

#[test]
fn an_event_arrives_with_its_fields_in_the_words_of_the_kernel() {
    let _alone = alone();
    traced(|hub| {
        emit("before", 0);
        let mut subscription = hub.subscribe(Select::default()).expect("the first");
        emit("sha256-ab", 8192);
        tracing::trace!(target: "larder_fscache", "not a trace point");
        tracing::info!(target: "elsewhere", "cachefiles_prep_read");
        let (records, lost) = drain(&mut subscription);
        assert_eq!((records.len(), lost), (1, 0), "{records:?}");
        let record = &records[0];
        assert_eq!(
            (record.event, record.cookie(), record.pid),
            ("cachefiles_prep_read", Some("sha256-ab"), None)
        );
        for (name, value) in [
            ("start", Value::Unsigned(8192)),
            ("len", Value::Unsigned(4096)),
            ("source", Value::Text("READ".into())),
            ("why", Value::Text("have-data".into())),
            ("volume", Value::Text("default".into())),
        ] {
            assert!(record.fields.contains(&(name, value)), "{name}: {record:?}");
        }
        let json = serde_json::to_value(&**record).expect("it can be written");
        assert_eq!((&json["start"], &json["why"]), (&8192.into(), &"have-data".into()));
    });
}

#[test]
fn p8_whose_read_it_is_comes_from_the_event_or_from_the_question_around_it() {
    let _alone = alone();
    traced(|hub| {
        let select = Select { pids: [77].into(), ..Select::default() };
        let mut subscription = hub.subscribe(select).expect("the first");
        tracing::debug_span!(target: "larder_mount", "question", pid = 77).in_scope(|| {
            tracing::trace_span!(target: "larder_mount", "step", n = 1).in_scope(|| emit("inside", 0));
        });
        tracing::debug_span!(target: "larder_mount", "question", pid = 78).in_scope(|| emit("another's", 0));
        emit("nobody's", 0);
        tracing::debug!(target: "larder_ondemand", pid = 77, blob = "own", "cachefiles_ondemand_read");
        let (records, _) = drain(&mut subscription);
        let cookies: Vec<_> = records.iter().map(|record| (record.cookie(), record.pid)).collect();
        assert_eq!(cookies, [(Some("inside"), Some(77)), (Some("own"), Some(77))]);
    });
}

#[test]
fn each_listener_gets_what_it_asked_for() {
    let _alone = alone();
    traced(|hub| {
        let subscribe = |select| hub.subscribe(select).expect("room");
        let mut by_event = subscribe(Select { events: ["cachefiles_lookup"].into(), ..Select::default() });
        let mut by_cookie = subscribe(Select { cookies: vec!["sha256-ab".to_owned()], ..Select::default() });
        let name = ImageName { reference: "r.example/app:1".to_owned(), path: "/mnt/app".into() };
        let mut by_image = subscribe(Select { images: vec![name], ..Select::default() });
        let keys = |key: &str| [key.to_owned()];
        hub.note_image(
            |name| name.names("r.example/app:1", "sha256:1", Path::new("/mnt/x")),
            &keys("by-ref"),
        );
        hub.note_image(|name| name.names("r.example/b", "sha256:2", Path::new("/mnt/app")), &keys("by-path"));
        hub.note_image(|name| name.names("r.example/b", "sha256:2", Path::new("/mnt/b")), &keys("other"));
        for cookie in ["sha256-abcd", "sha256-cd", "by-ref", "by-path", "other"] {
            emit(cookie, 0);
        }
        tracing::debug!(target: "larder_cachefiles", cookie = "other", "cachefiles_lookup");
        let cookies = |subscription| {
            let (records, _) = drain(subscription);
            records.iter().map(|record| record.cookie().unwrap_or("").to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(cookies(&mut by_event), ["other"]);
        assert_eq!(cookies(&mut by_cookie), ["sha256-abcd"]);
        assert_eq!(cookies(&mut by_image), ["by-ref", "by-path"]);
    });
}

#[test]
fn a_listener_that_reads_too_slowly_loses_events_and_is_told_how_many() {
    let _alone = alone();
    traced(|hub| {
        let mut slow = hub.subscribe(Select::default()).expect("the first");
        let count = 10_000;
        for start in 0..count {
            emit("c", start);
        }
        let (records, lost) = drain(&mut slow);
        assert!(lost > 0 && !records.is_empty());
        assert_eq!(records.len() as u64 + lost, count);
        emit("c", 0);
        let (records, lost) = drain(&mut slow);
        assert_eq!((records.len(), lost), (1, 0), "what it is told once it is not told again");
    });
}

#[test]
fn p5_there_is_a_bound_to_the_number_of_listeners_and_a_closed_hub_ends_them() {
    let _alone = alone();
    traced(|hub| {
        let mut listeners: Vec<_> =
            (0..SUBSCRIBERS_MAX).map_while(|_| hub.subscribe(Select::default())).collect();
        assert_eq!((listeners.len(), hub.listeners()), (SUBSCRIBERS_MAX, SUBSCRIBERS_MAX));
        assert!(hub.subscribe(Select::default()).is_none());
        drop(listeners.pop());
        listeners.push(hub.subscribe(Select::default()).expect("room again"));
        hub.close();
        assert!(!hub.is_on());
        for mut listener in listeners {
            use futures_util::FutureExt as _;
            assert!(matches!(listener.next().now_or_never(), Some(None)), "it has ended");
        }
    });
}

/// A trace point that is not in the table would be lost in silence.
#[test]
fn every_trace_point_of_the_libraries_is_in_the_table() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = 0;
    let mut missing = Vec::new();
    for library in ["fscache", "cachefiles", "netfs", "ondemand", "imagefs", "mount"] {
        visit(&crates.join(library).join("src"), &mut |path, text| {
            for name in text.split('"').filter(|piece| looks_like_a_name(piece)) {
                found += 1;
                if events::known(name).is_none() {
                    missing.push(format!("{name} in {}", path.display()));
                }
            }
        });
    }
    assert!(found > 0, "the libraries have trace points");
    assert!(missing.is_empty(), "add them to trace/events.rs: {missing:#?}");
}

fn looks_like_a_name(piece: &str) -> bool {
    let system = ["cachefiles_", "fscache_", "netfs_", "erofs_", "ondemand_"];
    system.iter().any(|system| piece.starts_with(system))
        && piece.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase())
}

fn visit(dir: &Path, each: &mut impl FnMut(&Path, &str)) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries {
        let path = entry.expect("our own sources").path();
        if path.is_dir() {
            visit(&path, each);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            each(&path, &std::fs::read_to_string(&path).expect("our own sources"));
        }
    }
}
