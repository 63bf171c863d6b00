//! The tables against a model that is a plain list of everything that ever was, searched from the start each time.

use proptest::prelude::*;

use super::{
    Answer, Body, Ending, HandleId, Kind, Limits, Message, ObjectId, ObjectState as O, Refused, Reply,
    RequestId, RequestState as R, Tables,
};

type Real = Tables<u64, u64, u8>;

const LIMITS: Limits = Limits { objects_max: 5, reads_per_object_max: 4, in_hand_per_object_max: 2 };

struct NaiveObject {
    state: O,
    handle: Option<u64>,
    holds: usize,
}

struct NaiveRequest {
    object: u64,
    kind: Kind,
    state: R,
    handle: Option<u64>,
    in_hand: bool,
    waited_for: bool,
    ending: Option<Ending<u8>>,
}

/// Objects and requests by number, from 1; what is gone stays in the list.
#[derive(Default)]
struct Naive {
    objects: Vec<NaiveObject>,
    requests: Vec<NaiveRequest>,
    handles: u64,
    last: u64,
    dead: bool,
}

impl Naive {
    fn object(&self, id: u64) -> &NaiveObject {
        &self.objects[usize::try_from(id).expect("small") - 1]
    }

    fn object_mut(&mut self, id: u64) -> &mut NaiveObject {
        &mut self.objects[usize::try_from(id).expect("small") - 1]
    }

    fn of(&mut self, object: u64) -> impl Iterator<Item = &mut NaiveRequest> {
        self.requests.iter_mut().filter(move |request| request.object == object)
    }

    fn is_gone(&self, id: u64) -> bool {
        let object = self.object(id);
        let works = object.holds > 0 || self.requests.iter().any(|r| r.object == id && r.in_hand);
        let calls =
            self.requests.iter().any(|r| r.object == id && r.kind == Kind::Close && r.state == R::New);
        object.state == O::Dropping && !works && !calls
    }

    fn push(&mut self, object: u64, kind: Kind, waited_for: bool) -> u64 {
        let (state, handle, ending) = (R::New, None, None);
        self.requests.push(NaiveRequest { object, kind, state, handle, in_hand: false, waited_for, ending });
        self.requests.len() as u64
    }

    fn can_take(&self, object: u64) -> Option<u64> {
        if self.object(object).state == O::Dropping && self.is_gone(object) {
            return None;
        }
        let new = |kinds: &[Kind]| {
            let found = self
                .requests
                .iter()
                .position(|r| r.object == object && r.state == R::New && kinds.contains(&r.kind));
            found.map(|at| at as u64 + 1)
        };
        let in_hand = self.requests.iter().filter(|r| r.object == object && r.in_hand).count();
        let may_read = self.object(object).state == O::Open && in_hand < LIMITS.in_hand_per_object_max;
        new(&[Kind::Open, Kind::Close]).or_else(|| new(&[Kind::Read]).filter(|_| may_read))
    }

    fn deliver(&mut self) -> Option<(u64, u64, u64, Kind)> {
        let count = self.objects.len() as u64;
        let turns = (self.last + 1..=count).chain(1..=self.last);
        let (object, request) = turns.filter_map(|o| Some((o, self.can_take(o)?))).next()?;
        self.last = object;
        let kind = self.requests[usize::try_from(request).expect("small") - 1].kind;
        if kind == Kind::Open {
            self.handles += 1;
            self.object_mut(object).handle = Some(self.handles);
        }
        let handle = self.object(object).handle.unwrap_or(0);
        let found = &mut self.requests[usize::try_from(request).expect("small") - 1];
        found.handle = Some(handle);
        (found.state, found.in_hand) =
            if kind == Kind::Close { (R::Done, false) } else { (R::Delivered, true) };
        if kind == Kind::Close {
            self.object_mut(object).handle = None;
        }
        Some((request, object, handle, kind))
    }

    fn end(request: &mut NaiveRequest, state: R, ending: Ending<u8>) {
        request.state = state;
        if request.waited_for {
            request.ending = Some(ending);
        }
    }

    fn is_known(request: &NaiveRequest) -> bool {
        matches!(request.state, R::New | R::Delivered) || request.in_hand || request.waited_for
    }

    fn answer(&mut self, to: Answer, reply: &Reply<u8>) -> Result<(), Refused> {
        let request = to.request;
        let at = usize::try_from(request.get()).expect("small") - 1;
        let found = self
            .requests
            .get_mut(at)
            .filter(|r| Self::is_known(r))
            .ok_or(Refused::UnknownRequest { request })?;
        if found.kind != reply.kind() {
            return Err(Refused::Kind { request, asked: found.kind, answered: reply.kind() });
        }
        if found.state == R::New {
            return Err(Refused::NotDelivered { request });
        }
        if !found.in_hand {
            return Err(Refused::UnknownRequest { request });
        }
        if found.object != to.object.get() || found.handle != Some(to.handle.get()) {
            return Err(Refused::Handle { request, handle: to.handle });
        }
        found.in_hand = false;
        if found.state != R::Delivered {
            return Err(Refused::Cancelled { request });
        }
        Self::end(found, R::Done, Ending::Answered(reply.clone()));
        let object = found.object;
        match reply {
            Reply::Read(_) => {}
            Reply::Open(Ok(_)) => self.object_mut(object).state = O::Open,
            Reply::Open(Err(error)) => {
                self.object_mut(object).state = O::Closed;
                self.object_mut(object).handle = None;
                for read in self.of(object).filter(|r| r.kind == Kind::Read && r.state == R::New) {
                    Self::end(read, R::Cancelled, Ending::Answered(Reply::Read(Err(*error))));
                }
            }
        }
        Ok(())
    }

    fn want(&mut self, object: u64) {
        if self.object(object).state == O::Closed {
            self.object_mut(object).state = O::Reopening;
            self.push(object, Kind::Open, false);
        }
    }

    fn reopen(&mut self, object: u64) {
        let reads = self.of(object).any(|r| r.kind == Kind::Read && r.state == R::New);
        if reads {
            self.want(object);
        }
    }

    fn read(&mut self, object: u64) -> Option<u64> {
        let waits = |r: &&mut NaiveRequest| r.in_hand || (r.kind == Kind::Read && r.state == R::New);
        let waiting = self.of(object).filter(waits).count();
        if self.dead || self.object(object).state == O::Dropping || waiting >= LIMITS.reads_per_object_max {
            return None;
        }
        let id = self.push(object, Kind::Read, true);
        self.want(object);
        Some(id)
    }

    fn open(&mut self, object: u64) -> Option<u64> {
        if self.dead || self.object(object).state != O::Closed {
            return None;
        }
        self.object_mut(object).state = O::Reopening;
        Some(self.push(object, Kind::Open, true))
    }

    fn cancel(&mut self, request: u64) {
        let found = &mut self.requests[usize::try_from(request).expect("small") - 1];
        found.waited_for = false;
        if found.kind == Kind::Read && matches!(found.state, R::New | R::Delivered) {
            found.state = R::Cancelled;
        }
    }

    fn collect(&mut self, request: u64) -> Option<Ending<u8>> {
        let found = &mut self.requests[usize::try_from(request).expect("small") - 1];
        let ending = found.ending.take()?;
        found.waited_for = false;
        Some(ending)
    }

    fn release(&mut self, object: u64, handle: u64) {
        if self.is_gone(object) || self.object(object).handle != Some(handle) {
            return;
        }
        self.object_mut(object).handle = None;
        if self.object(object).state == O::Dropping {
            self.of(object).filter(|r| r.kind == Kind::Close).for_each(|close| close.state = R::Done);
            return;
        }
        self.object_mut(object).state = O::Closed;
        for request in self.of(object).filter(|r| r.in_hand) {
            request.in_hand = false;
            match (request.state, request.kind) {
                (R::Delivered, Kind::Open) => Self::end(request, R::Cancelled, Ending::Dropped),
                (R::Delivered, _) => request.state = R::New,
                _ => {}
            }
        }
        self.reopen(object);
    }

    fn restore(&mut self) {
        for request in &mut self.requests {
            request.in_hand = false;
            if request.state == R::Delivered {
                request.state = R::New;
            }
            if request.kind == Kind::Close {
                request.state = R::Done;
            }
        }
        for object in 1..=self.objects.len() as u64 {
            self.object_mut(object).handle = None;
            if self.object(object).state == O::Open {
                self.object_mut(object).state = O::Closed;
            }
            self.reopen(object);
        }
    }

    fn withdraw(&mut self, object: u64, ending: &Ending<u8>) {
        if self.object(object).state == O::Dropping {
            if *ending == Ending::Dead {
                self.of(object).filter(|r| r.kind == Kind::Close).for_each(|close| close.state = R::Done);
            }
            return;
        }
        self.object_mut(object).state = O::Dropping;
        for request in self.of(object).filter(|r| matches!(r.state, R::New | R::Delivered)) {
            Self::end(request, R::Cancelled, ending.clone());
        }
        if self.object(object).handle.is_some() {
            self.push(object, Kind::Close, false);
        }
    }

    fn kill(&mut self) {
        self.dead = true;
        for object in 1..=self.objects.len() as u64 {
            self.object_mut(object).handle = None;
            self.withdraw(object, &Ending::Dead);
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Add,
    Open(usize),
    Read(usize),
    Deliver,
    /// One of the messages ever delivered; good or bad news; how the answer is spoiled.
    Answer(usize, bool, Spoiled),
    Cancel(usize),
    Collect(usize),
    Release(usize),
    Restore,
    Drop(usize),
    Kill,
    Hold(usize),
    Unhold(usize),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Spoiled {
    No,
    Kind,
    Object,
    Handle,
}

fn op() -> impl Strategy<Value = Op> {
    let n = 0usize..64;
    let spoiled = prop_oneof![
        12 => Just(Spoiled::No), 1 => Just(Spoiled::Kind), 1 => Just(Spoiled::Object), 1 => Just(Spoiled::Handle)
    ];
    prop_oneof![
        3 => Just(Op::Add),
        2 => n.clone().prop_map(Op::Open),
        14 => n.clone().prop_map(Op::Read),
        18 => Just(Op::Deliver),
        18 => (n.clone(), prop::bool::weighted(0.8), spoiled).prop_map(|(n, good, spoiled)| Op::Answer(n, good, spoiled)),
        4 => n.clone().prop_map(Op::Cancel),
        8 => n.clone().prop_map(Op::Collect),
        2 => n.clone().prop_map(Op::Release),
        1 => Just(Op::Restore),
        2 => n.clone().prop_map(Op::Drop),
        1 => prop::bool::weighted(0.05).prop_map(|kill| if kill { Op::Kill } else { Op::Deliver }),
        1 => n.clone().prop_map(Op::Hold),
        1 => n.prop_map(Op::Unhold),
    ]
}

#[derive(Default)]
struct Run {
    naive: Naive,
    messages: Vec<Message<u64, u64>>,
    waiting: Vec<RequestId>,
}

impl Run {
    fn pick<T: Copy>(list: &[T], n: usize) -> Option<T> {
        (!list.is_empty()).then(|| list[n % list.len()])
    }

    fn object(&self, n: usize) -> Option<ObjectId> {
        let objects: Vec<u64> = (1..=self.naive.objects.len() as u64).collect();
        Self::pick(&objects, n).map(ObjectId::from)
    }

    /// Does `op` to both and compares what they say.
    fn apply(&mut self, real: &mut Real, op: Op) -> Result<(), TestCaseError> {
        match op {
            Op::Add => self.add(real)?,
            Op::Open(n) => {
                let Some(object) = self.object(n) else { return Ok(()) };
                let got = real.open(object).ok();
                prop_assert_eq!(got.map(RequestId::get), self.naive.open(object.get()));
                self.waiting.extend(got);
            }
            Op::Read(n) => {
                let Some(object) = self.object(n) else { return Ok(()) };
                let got = real.read(object, 7).ok();
                prop_assert_eq!(got.map(RequestId::get), self.naive.read(object.get()));
                self.waiting.extend(got);
            }
            Op::Deliver => self.deliver(real)?,
            Op::Answer(n, good, spoiled) => self.answer(real, n, good, spoiled)?,
            Op::Cancel(n) => {
                let Some(request) = Self::pick(&self.waiting, n) else { return Ok(()) };
                self.waiting.retain(|other| *other != request);
                real.cancel(request);
                self.naive.cancel(request.get());
            }
            Op::Collect(n) => {
                let Some(request) = Self::pick(&self.waiting, n) else { return Ok(()) };
                let got = real.collect(request);
                prop_assert_eq!(&got, &self.naive.collect(request.get()));
                if got.is_some() {
                    self.waiting.retain(|other| *other != request);
                }
            }
            Op::Release(n) => {
                let named: Vec<(ObjectId, HandleId)> =
                    self.messages.iter().map(|m| (m.object, m.handle)).collect();
                let Some((object, handle)) = Self::pick(&named, n) else { return Ok(()) };
                real.release(object, handle);
                self.naive.release(object.get(), handle.get());
            }
            Op::Restore => {
                real.restore();
                self.naive.restore();
            }
            Op::Drop(n) => {
                let Some(object) = self.object(n) else { return Ok(()) };
                real.drop_object(object);
                self.naive.withdraw(object.get(), &Ending::Dropped);
            }
            Op::Kill => {
                real.kill();
                self.naive.kill();
            }
            Op::Hold(n) => {
                let Some(object) = self.object(n) else { return Ok(()) };
                let can = !self.naive.dead && self.naive.object(object.get()).state != O::Dropping;
                prop_assert_eq!(real.hold(object).is_ok(), can);
                self.naive.object_mut(object.get()).holds += usize::from(can);
            }
            Op::Unhold(n) => {
                let Some(object) = self.object(n) else { return Ok(()) };
                if self.naive.object(object.get()).holds > 0 {
                    real.unhold(object);
                    self.naive.object_mut(object.get()).holds -= 1;
                }
            }
        }
        self.compare(real)
    }

    fn add(&mut self, real: &mut Real) -> Result<(), TestCaseError> {
        let there = (1..=self.naive.objects.len() as u64).filter(|id| !self.naive.is_gone(*id)).count();
        let got = real.add(0);
        prop_assert_eq!(got.is_ok(), !self.naive.dead && there < LIMITS.objects_max);
        if let Ok(id) = got {
            self.naive.objects.push(NaiveObject { state: O::Closed, handle: None, holds: 0 });
            prop_assert_eq!(id.get(), self.naive.objects.len() as u64, "numbers are never used again");
        }
        Ok(())
    }

    fn deliver(&mut self, real: &mut Real) -> Result<(), TestCaseError> {
        let got = real.deliver();
        let named = got.as_ref().map(|m| (m.request.get(), m.object.get(), m.handle.get(), m.body.kind()));
        prop_assert_eq!(named, self.naive.deliver());
        self.messages.extend(got);
        Ok(())
    }

    fn answer(
        &mut self,
        real: &mut Real,
        n: usize,
        good: bool,
        spoiled: Spoiled,
    ) -> Result<(), TestCaseError> {
        if self.messages.is_empty() {
            return Ok(());
        }
        // Mostly a recent one: old ones are answered already.
        let at = self.messages.len() - 1 - (n % 8).min(self.messages.len() - 1);
        let message = &self.messages[at];
        let mut to = message.answer();
        let is_open = matches!(message.body, Body::Open) != (spoiled == Spoiled::Kind);
        match spoiled {
            Spoiled::Object => to.object = ObjectId::from(to.object.get() % 5 + 1),
            Spoiled::Handle => to.handle = HandleId::from(to.handle.get() + 1),
            Spoiled::No | Spoiled::Kind => {}
        }
        let reply = match (is_open, good) {
            (true, true) => Reply::Open(Ok(9)),
            (true, false) => Reply::Open(Err(5)),
            (false, true) => Reply::Read(Ok(())),
            (false, false) => Reply::Read(Err(5)),
        };
        prop_assert_eq!(real.answer(to, reply.clone()), self.naive.answer(to, &reply));
        Ok(())
    }

    fn compare(&self, real: &Real) -> Result<(), TestCaseError> {
        for id in 1..=self.naive.objects.len() as u64 {
            let expected = (!self.naive.is_gone(id)).then(|| self.naive.object(id).state);
            prop_assert_eq!(real.state(ObjectId::from(id)), expected, "object {}", id);
        }
        let known = self.naive.requests.iter().filter(|r| Naive::is_known(r)).count();
        prop_assert_eq!(real.len(), known, "a request is forgotten when nobody looks for it");
        Ok(())
    }

    /// A closed object has no new READ, an object that reopens has one OPEN, and what is going has nothing new.
    fn check_invariants(real: &Real) -> Result<(), TestCaseError> {
        for (id, object) in &real.objects {
            let requests: Vec<_> = real.requests.values().filter(|r| r.object == *id).collect();
            let new =
                |kind: Kind| requests.iter().filter(|r| r.body.kind() == kind && r.state == R::New).count();
            let opens = requests
                .iter()
                .filter(|r| r.body.kind() == Kind::Open && matches!(r.state, R::New | R::Delivered))
                .count();
            match object.state {
                O::Closed => prop_assert_eq!(new(Kind::Read) + opens, 0),
                O::Reopening => prop_assert_eq!(opens, 1),
                O::Open => prop_assert_eq!(opens, 0),
                O::Dropping => prop_assert_eq!((new(Kind::Read) + opens, new(Kind::Close) <= 1), (0, true)),
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_tables_do_what_a_list_of_everything_does(ops in prop::collection::vec(op(), 1..160)) {
        let (mut run, mut real) = (Run::default(), Real::new(LIMITS));
        for op in ops {
            run.apply(&mut real, op)?;
            Run::check_invariants(&real)?;
        }
    }

    /// Whatever happened before: a daemon that answers everything leaves nobody waiting.
    #[test]
    fn whatever_happened_a_diligent_daemon_leaves_nobody_waiting(ops in prop::collection::vec(op(), 1..160)) {
        let (mut run, mut real) = (Run::default(), Real::new(LIMITS));
        for op in ops {
            run.apply(&mut real, op)?;
        }
        real.restore();
        while let Some(message) = real.deliver() {
            let reply = match message.body {
                Body::Open => Reply::Open(Ok(1)),
                Body::Read(_) => Reply::Read(Ok(())),
                Body::Close => continue,
            };
            prop_assert_eq!(real.answer(message.answer(), reply), Ok(()));
        }
        for request in run.waiting {
            prop_assert!(real.collect(request).is_some(), "request {} is over", request);
        }
        prop_assert!(real.is_empty(), "nothing leaks: {:?}", real.requests);
    }
}
