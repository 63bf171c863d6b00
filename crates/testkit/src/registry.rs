//! [`Registry`]: a running server and the handles of a test on it.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use crate::{Content, Fault, Ledger, Target, Times, fault::Script, server};

/// An OCI registry on the loopback, read side. Dropping it cuts every connection and waits for its thread.
#[derive(Debug)]
pub struct Registry {
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What the server's tasks and the test both see.
#[derive(Debug)]
pub(crate) struct Shared {
    pub address: SocketAddr,
    pub content: Content,
    pub script: Script,
    pub tokens: Tokens,
    latency_us: AtomicU64,
    bytes_per_second: AtomicU64,
    link_free_at: Mutex<Instant>,
    ledger: Mutex<Ledger>,
}

/// Tokens are numbered; only the newest is good. Lifetime 0: none is asked for.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    pub lifetime_s: AtomicU64,
    pub serial: AtomicU64,
}

impl Registry {
    /// Starts serving `content` on a free port of 127.0.0.1.
    ///
    /// # Panics
    ///
    /// When the host gives no port or no thread.
    pub fn start(content: Content) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port on the loopback");
        listener.set_nonblocking(true).expect("a socket that does not block");
        let shared = Arc::new(Shared {
            address: listener.local_addr().expect("a bound socket has an address"),
            content,
            script: Script::default(),
            tokens: Tokens::default(),
            latency_us: AtomicU64::new(0),
            bytes_per_second: AtomicU64::new(0),
            link_free_at: Mutex::new(Instant::now()),
            ledger: Mutex::default(),
        });
        let (stop, stopped) = oneshot::channel();
        let served = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("testkit-registry".into());
        let thread = thread.spawn(move || server::run(listener, served, stopped)).expect("a thread");
        Self { shared, stop: Some(stop), thread: Some(thread) }
    }

    /// Starts serving the OCI image layout in `dir`.
    ///
    /// # Panics
    ///
    /// When it cannot be read, or as [`Registry::start`] does.
    pub fn layout_from_dir(dir: impl AsRef<Path>) -> Self {
        Self::start(Content::layout_from_dir(dir).expect("an OCI image layout"))
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.shared.address.to_string()
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        self.shared.url()
    }

    /// Meets every request for a manifest or blob with `fault`, until faults are cleared.
    pub fn fail(&self, fault: Fault) {
        self.fail_at(Target::Any, Times::UntilCleared, fault);
    }

    /// Meets the next `times` requests for a manifest or blob with `fault`.
    pub fn fail_next(&self, times: u32, fault: Fault) {
        self.fail_at(Target::Any, Times::Next(times), fault);
    }

    /// Meets requests for `target` with `fault`. Where several faults fit, the oldest is taken.
    pub fn fail_at(&self, target: Target, times: Times, fault: Fault) {
        self.shared.script.add(target, times, fault);
    }

    /// Forgets all faults: the registry is honest again.
    pub fn clear_faults(&self) {
        self.shared.script.clear();
    }

    /// Wants a token for everything under `/v2/`, to be had at `/token` by anyone, that holds for `lifetime_s`.
    pub fn require_tokens(&self, lifetime_s: u64) {
        self.shared.tokens.lifetime_s.store(lifetime_s, SeqCst);
    }

    /// Takes every token given out so far for expired.
    pub fn expire_tokens(&self) {
        self.shared.tokens.serial.fetch_add(1, SeqCst);
    }

    /// Waits so long before each answer.
    pub fn set_latency(&self, latency: Duration) {
        self.shared.latency_us.store(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX), SeqCst);
    }

    /// Sends no faster than this, all connections together; 0 is no limit.
    pub fn set_bandwidth(&self, bytes_per_second: u64) {
        self.shared.bytes_per_second.store(bytes_per_second, SeqCst);
    }

    /// Returns a copy of what was asked and sent so far.
    pub fn ledger(&self) -> Ledger {
        self.shared.ledger().clone()
    }

    /// Begins a new ledger.
    pub fn reset_ledger(&self) {
        *self.shared.ledger() = Ledger::default();
    }

    /// Returns the number of requests answered so far.
    pub fn requests(&self) -> usize {
        self.shared.ledger().requests.len()
    }

    /// Returns the largest number of times that any byte of the blob was sent.
    pub fn max_times_served(&self, digest: &str) -> usize {
        self.shared.ledger().max_times_served(digest)
    }

    /// Returns the number of bytes of blobs sent, repetitions included.
    pub fn bytes_served(&self) -> u64 {
        self.shared.ledger().bytes_served()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there was already shown, and a second one here would abort the test.
            let _ = thread.join();
        }
    }
}

impl Shared {
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn latency(&self) -> Duration {
        Duration::from_micros(self.latency_us.load(SeqCst))
    }

    /// Waits until the link has room and takes it for `bytes`.
    pub(crate) async fn take_link(&self, bytes: usize) {
        let rate = self.bytes_per_second.load(SeqCst);
        if rate == 0 {
            return;
        }
        let until = {
            let mut free_at = self.link_free_at.lock().unwrap_or_else(PoisonError::into_inner);
            let micros = (bytes as u64).saturating_mul(1_000_000) / rate;
            *free_at = (*free_at).max(Instant::now()) + Duration::from_micros(micros);
            *free_at
        };
        tokio::time::sleep_until(until.into()).await;
    }
}
