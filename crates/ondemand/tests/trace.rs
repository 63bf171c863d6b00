//! P8: what a fault goes through is seen from outside, under the kernel's names and with real numbers.
//!
//! A program of its own: what its subscriber gets is what happens in the whole process.

#[path = "it/common/fixture.rs"]
mod fixture;

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{Arc, Mutex, atomic::Ordering::SeqCst},
};

use fixture::{Fixture, KIB, Link, MIB, engine_with, no_readahead};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    instrument::WithSubscriber as _,
    span::Attributes,
};
use tracing_subscriber::{Layer, layer::Context, layer::SubscriberExt as _, registry::Registry};

type Fields = BTreeMap<String, String>;

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Fields>>>);

struct Collect<'a>(&'a mut Fields);

impl Visit for Collect<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
}

impl<S: Subscriber> Layer<S> for Seen {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::new();
        event.record(&mut Collect(&mut fields));
        self.0.lock().expect("no panic").push(fields);
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, _: &tracing::Id, _: Context<'_, S>) {
        let mut fields = Fields::from([("message".to_owned(), attributes.metadata().name().to_owned())]);
        attributes.record(&mut Collect(&mut fields));
        self.0.lock().expect("no panic").push(fields);
    }
}

impl Seen {
    fn named(&self, name: &str) -> Vec<Fields> {
        let seen = self.0.lock().expect("no panic");
        seen.iter().filter(|fields| fields.get("message").is_some_and(|is| is == name)).cloned().collect()
    }
}

#[test]
fn p8_a_fault_is_a_span_and_the_kernels_events_with_real_numbers() {
    let seen = Seen::default();
    // For every thread: what is decoded is written on another one.
    let subscriber = Registry::default().with(seen.clone());
    tracing::subscriber::set_global_default(subscriber).expect("the only test of this program");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime").block_on(
        async {
            let fixture = Fixture::new(MIB, 64 * KIB, &Link::usual());
            let engine = engine_with(no_readahead());
            fixture.read(&engine, 64 * KIB..68 * KIB).await.expect("the source is well");
            fixture.read(&engine, 256 * KIB..260 * KIB).await.expect("the source is well");
            assert_eq!(fixture.source.requests.load(SeqCst), 2, "one for each read");
            engine.withdraw(&fixture.blob).await;
        }
        .with_current_subscriber(),
    );

    let questions = seen.named("question");
    assert_eq!(questions.len(), 2);
    assert_eq!(
        (&*questions[0]["start"], &*questions[0]["len"], &*questions[0]["pid"]),
        ("65536", "4096", "1")
    );

    let (opens, copens) = (seen.named("cachefiles_ondemand_open"), seen.named("cachefiles_ondemand_copen"));
    assert_eq!((opens.len(), copens.len()), (1, 1), "one handle for both");
    assert_eq!(copens[0]["len"], MIB.to_string());
    let (reads, creads) = (seen.named("cachefiles_ondemand_read"), seen.named("cachefiles_ondemand_cread"));
    assert_eq!((reads.len(), creads.len()), (2, 2));
    for (read, cread) in reads.iter().zip(&creads) {
        assert_eq!((&read["obj"], &read["msg_id"]), (&cread["obj"], &cread["msg_id"]));
        assert_eq!(read["obj"], opens[0]["obj"]);
        assert_ne!(read["msg_id"], "0");
    }
    assert_eq!(reads[1]["object_id"], opens[0]["object_id"]);
    let writes = seen.named("cachefiles_ondemand_fd_write");
    assert_eq!(writes.len(), 2);
    assert_eq!((&*writes[1]["start"], &*writes[1]["len"]), ("262144", "65536"));
    assert_eq!(writes[1]["obj"], opens[0]["obj"]);
    let (closes, releases) =
        (seen.named("cachefiles_ondemand_close"), seen.named("cachefiles_ondemand_fd_release"));
    assert_eq!((closes.len(), releases.len()), (1, 1));
    assert_eq!(releases[0]["object_id"], opens[0]["object_id"]);
}
