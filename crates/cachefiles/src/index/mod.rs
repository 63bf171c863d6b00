//! [`Index`]: which objects there are, what they take, when they were used last; without a walk.
//!
//! A hint in a database beside the objects (`index.redb`), never the truth: every row can be had again from
//! the files, and all are, by a walk, when the index was not closed cleanly. Changes are gathered in memory
//! and committed many at a time, so a row costs no sync. Recency has no table of its own: whoever culls reads
//! all rows once (a million in well under a second) and takes the oldest thousands, as cachefilesd does with
//! its table; that halves what a change costs. That an object was used is noted beside the rows, and goes into
//! them many at a time.
//!
//! A row also says how its file is found without a look into the folder. No hint is needed to be right for that either:
//! whoever opens a file so sees whether its path leads to it.

mod row;
mod seal;
mod touched;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::ops::{Bound, ControlFlow, RangeBounds as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use redb::{Database, Durability, ReadableDatabase, TableDefinition, TableError};

use larder_fscache::{CookieKey, VolumeKey};

use crate::error::is_full;
use crate::object::Name;
use crate::storage::Sighting;

pub(crate) use row::Row;
use touched::Touched;

/// Volume, `/`, key; no key has a slash.
const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
/// The sums, as they were at the last clean end.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// What the rows did not say then, under one key.
const TOUCHED: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("touched");
const ALL: &str = "all";
/// Memory that the database may use for pages.
const CACHE_BYTES: usize = 16 << 20;
/// Changes that are gathered at most.
const PENDING_MAX: usize = 4096;
/// Rows that are read at once.
const BATCH: usize = 4096;

/// Which objects there are.
pub(crate) struct Index {
    /// `None` once it is closed. Never waited for by who has it and wants the state.
    db: RwLock<Option<Database>>,
    /// Where it lies, unless it is in memory.
    path: Option<PathBuf>,
    state: Mutex<State>,
    /// Whether there is a seal that vouches for the closed file. Changed with the state locked.
    sealed: AtomicBool,
}

#[derive(Default)]
struct State {
    /// Not yet in the database; none for what is removed.
    pending: HashMap<String, Option<Row>>,
    /// When objects were used last, beyond what their rows say.
    touched: Touched,
    totals: Totals,
    /// There is no database any more: what is pending stays in memory.
    closed: bool,
    /// The database has failed: what is pending stays in memory, where everybody finds it, and the next start walks.
    damaged: bool,
}

/// Sums over all rows.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Totals {
    pub objects: u64,
    /// Bytes on the disk.
    pub stored: u64,
}

/// Some of the rows, those that lie together.
#[derive(Default)]
struct Batch {
    rows: BTreeMap<String, Row>,
    /// Where the next one begins behind; none when these are the last.
    last: Option<String>,
}

/// What is kept of the ledger through a clean end.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Sums {
    pub charged: u64,
    pub graves: u64,
}

/// Everything of the database can fail; all that is done about it is to walk again.
type Failed = Box<dyn std::error::Error + Send + Sync>;

impl Index {
    /// Opens the index at `path`, and says what its last owner left if that closed it cleanly. Otherwise, or when
    /// it is damaged, it is empty.
    pub fn open(path: &Path) -> io::Result<(Self, Option<Sums>)> {
        match Self::open_clean(path) {
            Ok(Some((index, sums))) => return Ok((index, Some(sums))),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the index is damaged: rebuilding it")
            }
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        match builder().create(path) {
            Ok(db) => Ok((Self::over(db, Some(path)), None)),
            Err(redb::DatabaseError::Storage(redb::StorageError::Io(error))) if is_full(&error) => {
                tracing::warn!(%error, "the index stays in memory until the next start");
                let _ = fs::remove_file(path);
                Ok((Self::in_memory().map_err(io::Error::other)?, None))
            }
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// An empty index without a file.
    pub fn in_memory() -> Result<Self, redb::DatabaseError> {
        let db = builder().create_with_backend(redb::backends::InMemoryBackend::new())?;
        Ok(Self::over(db, None))
    }

    fn over(db: Database, path: Option<&Path>) -> Self {
        Self {
            db: RwLock::new(Some(db)),
            path: path.map(Path::to_owned),
            state: Mutex::default(),
            sealed: AtomicBool::new(false),
        }
    }

    fn open_clean(path: &Path) -> Result<Option<(Self, Sums)>, Failed> {
        if !seal::unseal(path)? {
            return Ok(None);
        }
        let db = match builder().open(path) {
            Err(redb::DatabaseError::RepairAborted) => return Ok(None),
            other => other?,
        };
        let Left { totals, sums, touched } = left_in(&db)?;
        let state = Mutex::new(State { totals, touched, ..State::default() });
        Ok(Some((Self { state, ..Self::over(db, Some(path)) }, sums)))
    }

    fn with_db<R>(&self, work: impl FnOnce(&Database) -> Result<R, Failed>) -> Result<R, Failed> {
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        work(db.as_ref().ok_or("the index is closed")?)
    }

    /// What is known of an object.
    pub fn get(&self, name: &Name) -> Option<Row> {
        let key = key_of(name);
        let state = self.lock();
        self.find(&state, &key).map(|row| state.touched.told(&key, row))
    }

    /// How the file of an object was seen last. Nobody may change the row meanwhile, so that others need not wait for what is
    /// read.
    pub fn seen(&self, name: &Name) -> Option<Sighting> {
        let key = key_of(name);
        {
            let state = self.lock();
            if state.closed {
                return None;
            }
            if let Some(pending) = state.pending.get(&key) {
                return pending.and_then(|row| row.seen);
            }
        }
        self.find_stored(&key).and_then(|row| row.seen)
    }

    /// Notes how the file of an object was seen, if it has a row.
    pub fn see(&self, name: &Name, seen: Option<Sighting>) {
        if !self.is_closed() {
            self.update(name, |row| row.seen = seen);
        }
    }

    /// Sets the row of an object.
    pub fn put(&self, name: &Name, row: Row) {
        self.change(key_of(name), Some(row));
    }

    /// Notes that an object was used, if it has a row: that is not looked at.
    pub fn touch(&self, name: &Name, used_ms: u64) {
        self.lock().touched.touch(&key_of(name), used_ms);
    }

    /// Changes the row of an object, if it has one, and returns it.
    pub fn update(&self, name: &Name, change: impl FnOnce(&mut Row)) -> Option<Row> {
        let (mut state, key) = (self.lock(), key_of(name));
        let old = self.find(&state, &key)?;
        let mut row = state.touched.told(&key, old);
        change(&mut row);
        self.set(&mut state, key, Some(old), Some(row));
        Some(row)
    }

    /// Brings into the rows what was touched, once it is much: a step of upkeep.
    pub fn fold(&self) {
        let touched = {
            let state = self.lock();
            if !state.touched.is_much() {
                return;
            }
            state.touched.clone()
        };
        self.fold_in(&touched);
    }

    /// Goes through all rows, and brings `touched` into those that it is about.
    fn fold_in(&self, touched: &Touched) {
        self.visit(|name, _row| {
            if touched.get(&key_of(&name)).is_some() {
                self.update(&name, |_| ());
            }
            ControlFlow::Continue(())
        });
        // Left are those that have no row.
        self.lock().touched.forget_all(touched);
    }

    /// Removes the row of an object, and returns it.
    pub fn remove(&self, name: &Name) -> Option<Row> {
        self.change(key_of(name), None)
    }

    /// Removes all rows of a volume, and returns the sum of their charges.
    pub fn remove_volume(&self, volume: &VolumeKey) -> u64 {
        let mut charge = 0u64;
        self.visit_from(format!("{volume}/"), |name, _row| {
            if name.0 != *volume {
                return ControlFlow::Break(());
            }
            charge = charge.saturating_add(self.remove(&name).map_or(0, |row| row.charge()));
            ControlFlow::Continue(())
        });
        charge
    }

    /// Calls `visit` with every object, sorted by volume and key. What is put or removed meanwhile may be told or not.
    ///
    /// In batches, so that neither memory nor a transaction is as large as the cache; and nothing is held while `visit`
    /// runs: it may change rows, and take its time, since pages that a reader may still see are not used again.
    pub fn visit(&self, visit: impl FnMut(Name, Row) -> ControlFlow<()>) {
        self.visit_from(String::new(), visit);
    }

    fn visit_from(&self, from: String, mut visit: impl FnMut(Name, Row) -> ControlFlow<()>) {
        let mut from = Bound::Included(from);
        loop {
            let Batch { rows, last } = self.batch(from);
            for (key, row) in rows {
                let Some(name) = name_of(&key) else { continue };
                if visit(name, row).is_break() {
                    return;
                }
            }
            match last {
                Some(last) => from = Bound::Excluded(last),
                None => return,
            }
        }
    }

    fn batch(&self, from: Bound<String>) -> Batch {
        let from = from.as_ref().map(String::as_str);
        let pending = {
            let mut state = self.lock();
            if state.closed {
                return Batch::default();
            }
            self.flush_locked(&mut state, Durability::None);
            // Empty unless the database has failed.
            let pending =
                state.pending.iter().filter(|(key, _)| (from, Bound::Unbounded).contains(key.as_str()));
            pending.map(|(key, row)| (key.clone(), *row)).collect::<Vec<_>>()
        };
        let mut batch = Batch::default();
        if let Err(error) = self.with_db(|db| Self::read_batch(db, from, &mut batch)) {
            self.fail(&mut self.lock(), &*error);
        }
        for (key, row) in pending {
            if batch.last.as_ref().is_some_and(|last| key > *last) {
                continue;
            }
            match row {
                Some(row) => batch.rows.insert(key, row),
                None => batch.rows.remove(&key),
            };
        }
        let state = self.lock();
        for (key, row) in &mut batch.rows {
            *row = state.touched.told(key, *row);
        }
        batch
    }

    /// Reads what the database has.
    fn read_batch(db: &Database, from: Bound<&str>, batch: &mut Batch) -> Result<(), Failed> {
        let transaction = db.begin_read()?;
        let table = match transaction.open_table(OBJECTS) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(()),
            other => other?,
        };
        for (read, entry) in (1..).zip(table.range::<&str>((from, Bound::Unbounded))?) {
            let (key, row) = entry?;
            if let Some(row) = Row::parse(row.value()) {
                batch.rows.insert(key.value().to_owned(), row);
            }
            if read == BATCH {
                batch.last = Some(key.value().to_owned());
                break;
            }
        }
        Ok(())
    }

    /// Sums over all rows.
    pub fn totals(&self) -> Totals {
        self.lock().totals
    }

    /// Moves what is pending into the database.
    pub fn flush(&self, durability: Durability) {
        let mut state = self.lock();
        self.flush_locked(&mut state, durability);
    }

    /// Closes the index and seals it, as whole. It answers nothing afterwards. Should anything change all the same, the
    /// seal is broken first.
    pub fn close(&self, sums: Sums) {
        let mut state = self.lock();
        self.flush_locked(&mut state, Durability::None);
        if state.damaged || state.closed {
            return;
        }
        state.closed = true;
        if let Err(error) = self.seal(&state, sums) {
            tracing::warn!(%error, "the index could not be closed: the next start walks through the cache");
        }
    }

    fn seal(&self, State { totals, touched, .. }: &State, sums: Sums) -> Result<(), Failed> {
        let db = self.db.write().unwrap_or_else(PoisonError::into_inner).take();
        let db = db.ok_or("it is closed")?;
        let mut transaction = db.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        transaction.open_table(TOUCHED)?.insert(ALL, touched.encode().as_slice())?;
        let mut meta = transaction.open_table(META)?;
        let entries = [
            ("objects", totals.objects),
            ("stored", totals.stored),
            ("charged", sums.charged),
            ("graves", sums.graves),
        ];
        for (key, value) in entries {
            meta.insert(key, value)?;
        }
        drop(meta);
        transaction.commit()?;
        db.close()?;
        if let Some(path) = &self.path {
            self.sealed.store(true, Ordering::Release);
            seal::seal(path)?;
        }
        Ok(())
    }

    /// Whether it answers nothing any more.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Sees to it, durably, that nothing vouches for a closed index: something is about to change that it would not know.
    pub fn break_seal(&self) -> io::Result<()> {
        if !self.sealed.load(Ordering::Acquire) {
            return Ok(());
        }
        self.break_seal_locked(&mut self.lock())
    }

    fn break_seal_locked(&self, _state: &mut State) -> io::Result<()> {
        if let Some(path) = self.path.as_ref().filter(|_| self.sealed.load(Ordering::Acquire)) {
            seal::break_seal(path)?;
            self.sealed.store(false, Ordering::Release);
            tracing::info!("the cache changes after its index was closed: the next start walks through it");
        }
        Ok(())
    }

    fn change(&self, key: String, row: Option<Row>) -> Option<Row> {
        let mut state = self.lock();
        let old = self.find(&state, &key);
        let told = old.map(|old| state.touched.told(&key, old));
        self.set(&mut state, key, old, row);
        told
    }

    fn set(&self, state: &mut State, key: String, old: Option<Row>, row: Option<Row>) {
        let totals = &mut state.totals;
        if let Some(old) = &old {
            totals.objects = totals.objects.saturating_sub(1);
            totals.stored = totals.stored.saturating_sub(old.stored);
        }
        if let Some(row) = &row {
            totals.objects += 1;
            totals.stored = totals.stored.saturating_add(row.stored);
        }
        state.touched.forget(&key);
        let is_change = (old.is_some() || row.is_some()) && old != row;
        // A closed one does not say what it has: what was taken away while it was being closed may be in it.
        if (is_change || state.closed)
            && let Err(error) = self.break_seal_locked(state)
        {
            tracing::error!(%error, what = "the seal of the index stays, though that changes", "cachefiles_io_error");
        }
        if is_change {
            state.pending.insert(key, row);
        }
        if state.pending.len() >= PENDING_MAX {
            self.flush_locked(state, Durability::None);
        }
    }

    fn find(&self, state: &State, key: &str) -> Option<Row> {
        match state.pending.get(key) {
            Some(pending) => *pending,
            None => self.find_stored(key),
        }
    }

    /// What the database says, which does not know of what is pending.
    fn find_stored(&self, key: &str) -> Option<Row> {
        let read = self.with_db(|db| {
            let transaction = db.begin_read()?;
            let table = match transaction.open_table(OBJECTS) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(None),
                other => other?,
            };
            Ok(table.get(key)?.and_then(|row| Row::parse(row.value())))
        });
        read.unwrap_or_else(|error| {
            tracing::warn!(%error, "the index cannot be read");
            None
        })
    }

    fn flush_locked(&self, state: &mut State, durability: Durability) {
        if state.damaged
            || state.closed
            || (state.pending.is_empty() && matches!(durability, Durability::None))
        {
            return;
        }
        let pending = std::mem::take(&mut state.pending);
        let written = self.with_db(|db| {
            let mut transaction = db.begin_write()?;
            transaction.set_durability(durability)?;
            let mut table = transaction.open_table(OBJECTS)?;
            for (key, row) in &pending {
                match row {
                    Some(row) => drop(table.insert(key.as_str(), row.encode().as_slice())?),
                    None => drop(table.remove(key.as_str())?),
                }
            }
            drop(table);
            Ok(transaction.commit()?)
        });
        if let Err(error) = written {
            self.fail(state, &*error);
            // Without its row nobody would know what an object is charged for.
            state.pending = pending;
        }
    }

    fn fail(&self, state: &mut State, error: &(dyn std::error::Error + Send + Sync)) {
        tracing::error!(%error, what = "the index fails; the next start rebuilds it", "cachefiles_io_error");
        state.damaged = true;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    // An index that needs repair was not closed cleanly: a walk replaces it.
    builder.set_repair_callback(|session| session.abort());
    builder
}

/// What a clean end leaves beside the rows.
struct Left {
    totals: Totals,
    sums: Sums,
    touched: Touched,
}

fn left_in(db: &Database) -> Result<Left, Failed> {
    let transaction = db.begin_read()?;
    let all = transaction.open_table(TOUCHED)?.get(ALL)?;
    let touched = all.map_or_else(Touched::default, |all| Touched::parse(all.value()));
    let meta = transaction.open_table(META)?;
    let get = |key| -> Result<u64, Failed> { Ok(meta.get(key)?.map_or(0, |value| value.value())) };
    let totals = Totals { objects: get("objects")?, stored: get("stored")? };
    Ok(Left { totals, sums: Sums { charged: get("charged")?, graves: get("graves")? }, touched })
}

fn key_of(name: &Name) -> String {
    format!("{}/{}", name.0, name.1)
}

fn name_of(key: &str) -> Option<Name> {
    let (volume, cookie) = key.split_once('/')?;
    Some((VolumeKey::new(volume).ok()?, CookieKey::new(cookie).ok()?))
}

#[cfg(test)]
mod tests;
